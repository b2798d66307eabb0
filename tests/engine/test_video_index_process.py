"""The index of a long file from a process of its own is the one that would be read here."""

import os
import signal
import subprocess
import sys

import pytest

from evostreaming.engine import video_file, video_index_process
from evostreaming.engine.video_file import VideoFile
from evostreaming.engine.video_index_process import IndexReaders


@pytest.fixture
def clips(shared):
    folder = shared / "data" / "video"
    if not folder.is_dir():
        pytest.skip(f"the clips are not at {folder}")
    return sorted(path for path in folder.iterdir() if path.suffix in (".mp4", ".webm", ".avi", ".mkv", ".ts"))


@pytest.fixture
def readers():
    found = IndexReaders(2)
    yield found
    found.close()


def here(file, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(video_file, "LONG", float("inf"))
        return file._index()


def test_every_clip_has_the_same_index_in_both(readers, clips, monkeypatch):
    assert clips
    for path in clips:
        file = VideoFile(path)
        index, tally = readers.read(file._address, file._number)
        mine, counted = here(file, monkeypatch)
        assert index == mine
        assert [tally.packets, tally.reached, tally.longest_step] == [counted.packets, counted.reached, counted.longest_step]
    assert len(readers._idle) == 1, "one process read them all"


def test_a_file_that_cannot_be_opened_has_no_index_and_ends_no_process(readers, tmp_path):
    assert readers.read(f"file:{tmp_path / 'gone.mp4'}", 0)[0] is None
    (tmp_path / "noise.mp4").write_bytes(os.urandom(5000))
    assert readers.read(f"file:{tmp_path / 'noise.mp4'}", 0)[0] is None and len(readers._idle) == 1


def test_a_killed_process_costs_nothing_but_time(readers, clips, monkeypatch):
    file = VideoFile(clips[0])
    readers.read(file._address, file._number)
    monkeypatch.setattr(video_file, "READERS", readers)
    monkeypatch.setattr(video_file, "LONG", 0)
    readers._idle[0].send_signal(signal.SIGKILL)
    readers._idle[0].wait()
    index, _ = file._index()
    assert index == here(file, monkeypatch)[0] and not readers._idle
    assert file._index()[0] == index and len(readers._idle) == 1, "the next one gets a new process"


def test_only_long_files_ask_a_process(clips, monkeypatch):
    monkeypatch.setattr(video_file, "READERS", None)
    file = VideoFile(clips[0])
    assert file._index()[0] is not None
    file.frames = video_index_process.LONG
    with pytest.raises(AttributeError):
        file._index()


def test_the_process_is_light():
    code = f"import sys, {video_index_process.__name__}; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
