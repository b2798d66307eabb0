"""The HTML page of a run: complete in one file, honest in its numbers, safe against what a model may say."""

import importlib.util
import re
from pathlib import Path

from evostreaming import watching
from evostreaming.report import page
from evostreaming.watching import Recording, record

spec = importlib.util.spec_from_file_location("pretend", Path(__file__).with_name("pretend.py"))
pretend = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pretend)


def recorded(frames=12, query=None, later=()):
    recording = Recording("clip.mp4", "tiny", "cpu", duration=2.0 * frames, threshold=0.5)
    record(recording, pretend.Engine(), pretend.Source(frames=frames), query, list(later), thumbnails=True)
    return recording


def test_page_needs_no_other_file_and_shows_every_frame_and_reply():
    text = page(recorded(query="Anyone?"))
    assert not re.findall(r"(?:src|href)=['\"](?!data:image/jpeg;base64,|#)", text)
    assert text.count("<figure") == 12 and text.count("<figure class=speak") == 2
    assert text.count("heard: Anyone?") == 2 and "<svg" in text and "<?xml" not in text
    assert "<b>12</b><span>frames watched" in text and "<b>2</b><span>replies" in text


def test_what_the_model_or_the_user_says_cannot_become_markup():
    text = page(recorded(query="<script>alert('x')</script>"))
    assert "<script" not in text and text.count("&lt;script&gt;") == 3


def test_a_page_of_no_frames_says_so():
    recording = Recording("clip.mp4", "tiny", "cpu", stopped="no video stream")
    assert "<b>0</b><span>frames watched" in page(recording) and "no video stream" in page(recording) and "<svg" not in page(recording)


def test_a_long_video_keeps_every_reply_but_a_bounded_number_of_silent_frames(monkeypatch):
    monkeypatch.setattr(watching, "MOST_THUMBNAILS", 24)
    recording = recorded(frames=120, later=[(2.0 * 7, "now?")])
    silent = [turn for turn in recording.turns if turn.jpeg and not turn.step.speak and not turn.asked]
    assert len(recording.turns) == 120
    assert all(turn.jpeg for turn in recording.spoken) and recording.turns[7].jpeg
    assert 6 < len(silent) <= 24
