"""Frames of a sweep: one a turn, decoded ahead of the model by one pool of threads, and waited for on a clock of their own."""

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

import evostreaming
from evostreaming import Engine
from evostreaming.engine.errors import VideoError
from evostreaming.engine.video import Frame, open_source
from evostreaming.eval import sweep_frames
from evostreaming.eval.episodes import Episode, Query, Target
from evostreaming.eval.sweep_frames import Ahead, open_video, turn_frames
from evostreaming.eval.sweep_plan import WINDOW, plan_bundles, plan_watches
from evostreaming.eval.sweep_workers import Worker

CLIPS = {name: str(Path(evostreaming.__file__).parent / "assets" / "clips" / name) for name in ("demo.mp4", "wait.mp4")}


def episode(name, video, t_q, t_end, t_start=0.0):
    target = Target("g", "q", t_end, (t_start, t_end), "cut")
    return Episode(name, "clips", "FAR", "FAR", video, t_start, t_end, 1.0, (Query("q", t_q, "What now?", "text"),), (target,))


NOW, ALL, WAIT = episode("now", "demo.mp4", 9.0, 13.0), episode("all", "demo.mp4", 5.0, 40.0), episode("wait", "wait.mp4", 5.0, 41.0)


class Delivers:
    """Delivers `frames` and then fails, or ends where `error` is None."""

    def __init__(self, frames, error):
        self.frames, self.error = frames, error

    def __iter__(self):
        yield from self.frames
        if self.error:
            raise self.error


def test_frames_are_the_last_ones_not_after_their_turns():
    (watch,) = plan_watches([episode("e", "v", 0.0, 5.0)], {"v": "v.mp4"})
    frames = [Frame(i, t, i) for i, t in enumerate((0.0, 0.9, 1.0, 2.5, 3.01))]
    assert [f.pixels for f in turn_frames(watch, Delivers(frames, None))] == [0, 2, 2, 3, 4, 4]
    broken, got = turn_frames(watch, Delivers(frames, VideoError("v", "cut off", 3.0))), []
    with pytest.raises(VideoError, match="cut off"):
        for frame in broken:
            got.append(frame.pixels)
    assert got == [0, 2, 2, 3, 4], "the good frames in front of the damage are to be used"
    with pytest.raises(VideoError, match="no frame at or before 0 s"):
        next(turn_frames(watch, Delivers([], None)))


def test_an_episode_may_begin_between_two_ticks():
    inside = replace(NOW, t_start=4.3, t_end=13.3)
    (watch,) = plan_watches([inside], CLIPS)
    with open_video(watch) as source:
        shown = list(turn_frames(watch, source))
    with open_source(CLIPS["demo.mp4"]) as source:
        every = list(source)
    for k, frame in enumerate(shown):
        last = max((f for f in every if f.time <= 4.3 + k + 1e-6), key=lambda f: f.time)
        assert frame.index == last.index and frame.pixels.equal(last.pixels)
    assert len(shown) == 10


@pytest.fixture
def ahead():
    ahead = Ahead()
    yield ahead
    ahead.close()


def decoding():
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode ")]


def test_prepared_videos_deliver_the_same_frames_from_one_pool_of_threads(ahead):
    watches = plan_watches([replace(ep, t_start=t) for t in (0.0, 1.0, 2.5) for ep in (ALL, WAIT)], CLIPS)
    assert len(watches) == 6
    threads = len(decoding())
    ahead.prepare(watches)
    for watch in watches:
        mine = ahead(watch)
        assert len(decoding()) == threads, "a video started a thread of its own"
        with open_video(watch) as alone:
            for own, other in zip(turn_frames(watch, mine), turn_frames(watch, alone), strict=True):
                assert own.time == other.time and own.pixels.equal(other.pixels)
        mine.close()
    ahead.close()
    assert len(decoding()) < threads, "the pool's threads outlive the sweep"


def test_what_is_prepared_decodes_before_it_is_asked_for_and_fails_only_then(ahead, tmp_path):
    (tmp_path / "noise.mp4").write_bytes(b"this is no film" * 100)
    paths = {**CLIPS, "noise.mp4": str(tmp_path / "noise.mp4")}
    bad, good = plan_watches([episode("bad", "noise.mp4", 3.0, 9.0), NOW], paths)
    ahead.prepare([bad, good])
    opened, deadline = ahead._opening[good], time.monotonic() + 10
    while not opened.done() or not opened.result()._ready.frames:
        assert time.monotonic() < deadline, "nothing was decoded ahead"
        time.sleep(0.01)
    with pytest.raises(VideoError, match="noise.mp4"):
        ahead(bad)
    assert next(ahead(good)).time == 0.0


def test_a_window_that_was_decoded_ahead_needs_no_decoder_any_more(ahead):
    """Its last turn is known to be one only by the frame behind it: a sweep would wait for that of each of its videos."""
    (watch,) = plan_watches([ALL], CLIPS)
    source, deadline = ahead(watch), time.monotonic() + 10
    while len(source._source._ready.frames) <= WINDOW and time.monotonic() < deadline:
        time.sleep(0.01)
    ahead._pool._neediest = lambda: None
    turns, read = turn_frames(watch, source), []
    thread = threading.Thread(target=lambda: read.extend(next(turns).index for _ in range(WINDOW)), daemon=True)
    thread.start()
    thread.join(5)
    source.close()
    assert len(read) == WINDOW


class Slow:
    """A source that takes `pause` seconds for each frame."""

    def __init__(self, source, pause):
        self.source, self.pause, self.close, self.asked = source, pause, source.close, 0

    def __next__(self):
        time.sleep(self.pause)
        self.asked += 1
        return next(self.source)


def test_waiting_for_frames_is_told_from_the_work_of_the_model(monkeypatch):
    engine = Engine.from_pretrained("tiny", device="cpu", max_streams=8, max_tokens=640, max_reply=12)
    model = type("Loaded", (), {"streams": 8, "load": lambda self: engine})()
    (bundle,), step, slow = plan_bundles(plan_watches([NOW], CLIPS), 8), engine.step, []

    def measure(video, model_s):
        monkeypatch.setattr(sweep_frames, "open_video", lambda watch, pool: slow.append(Slow(open_video(watch, pool), video)) or slow[-1])
        monkeypatch.setattr(engine, "step", lambda *args, **how: time.sleep(model_s) or step(*args, **how))
        worker = Worker(model, "stream")
        done = list(worker.run(bundle))
        worker.ahead.close()
        assert [name for work in done for name, *_ in work.episodes] == ["now"]
        return sum(work.waited for work in done), sum(work.seconds for work in done)

    waited, spent = measure(0.02, 0.0)
    assert slow[0].asked >= 14 and slow[0].asked * 0.02 <= waited < spent
    waited, spent = measure(0.0, 0.1)
    assert waited < spent / 2, "a slow model is not slow decoding"
