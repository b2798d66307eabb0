"""Frames pushed by an event loop or a thread: the newest wins, what it replaced is counted, times and sizes are those of the frames."""

import asyncio
import threading
import time
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

from evostreaming.engine.errors import ArgumentError, FrameError, VideoError
from evostreaming.engine.video import PushSource
from evostreaming.engine.video_colors import ToRgb


def frame_of(film, number, width=64, height=48, rate=30):
    frame = av.VideoFrame.from_ndarray(film.picture(number, width, height), format="rgb24").reformat(format="yuv420p")
    frame.pts, frame.time_base = 90_000 * number // rate + 1_234_567, Fraction(1, 90_000)  # as RTP counts
    return frame


class Track:
    """What aiortc gives: `recv()` waits for the next frame and raises when the call is over."""

    def __init__(self, frames, pause):
        self.frames, self.pause = iter(frames), pause

    async def recv(self):
        await asyncio.sleep(self.pause)
        try:
            return next(self.frames)
        except StopIteration:
            raise ConnectionError("the peer hung up") from None


def test_a_track_in_an_event_loop_is_watched_from_another_thread(film):
    async def call(track, source):
        try:
            while source.push(await track.recv()):
                pass
        except ConnectionError:
            source.end()

    source, seen = PushSource(), []

    def watch():
        for frame in source:
            seen.append((film.number(frame.pixels), frame.index, frame.time))
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    asyncio.run(call(Track([frame_of(film, k) for k in range(60)], 0.002), source))
    watcher.join(5)
    assert not watcher.is_alive() and len(seen) + source.dropped == 60 and source.dropped > 0
    assert all(number == index and at == pytest.approx(index / 30, abs=1e-4) for number, index, at in seen)
    assert seen == sorted(seen) and seen[-1][0] == 59, "the last one is never lost"
    assert (source.live, source.width, source.height) == (True, 64, 48)


def test_a_consumer_that_waits_gets_every_frame_of_a_thread(film):
    source, taken = PushSource(), threading.Semaphore(1)

    def bring():
        for number in range(20):
            taken.acquire(timeout=5)
            source.push(film.picture(number), time=100 + number / 10)
        source.end()

    threading.Thread(target=bring, daemon=True).start()
    seen = []
    for frame in source:
        seen.append((film.number(frame.pixels), round(frame.time, 6)))
        taken.release()
    assert seen == [(k, k / 10) for k in range(20)] and source.dropped == 0


def test_frames_between_the_ticks_are_neither_shown_nor_counted_as_dropped(film):
    source, seen = PushSource(fps=2), []
    for number in range(70):
        before = source.dropped
        source.push(frame_of(film, number))
        if source._ready.frames:
            frame = next(source)
            seen.append((film.number(frame.pixels), frame.time))
        assert source.dropped == before
    assert seen == [(0, 0.0), (15, 0.5), (30, 1.0), (45, 1.5), (60, 2.0)]


def test_only_what_is_fetched_is_converted(film, monkeypatch):
    converted, whole = [], ToRgb.__call__
    monkeypatch.setattr(ToRgb, "__call__", lambda self, frame, time: converted.append(frame.pts) or whole(self, frame, time))
    source = PushSource()
    for number in range(30):
        source.push(frame_of(film, number))
    source.end()
    assert [film.number(frame.pixels) for frame in source] == [29] and len(converted) == 1 and source.dropped == 29


def test_sizes_and_turns_are_as_they_come(film, tmp_path):
    turned = film.write(tmp_path / "turned.mp4", [film.picture(9, 64, 48)], turn=(-90, False, False))
    with av.open(str(turned)) as container:
        (phone,) = container.decode(video=0)
    source, shapes = PushSource(), []
    for frame in (frame_of(film, 1, 64, 48), frame_of(film, 2, 128, 98), phone, film.picture(4, 16, 11)):
        source.push(frame)
        shapes.append(tuple(next(source).pixels.shape))
    assert shapes == [(48, 64, 3), (98, 128, 3), (64, 48, 3), (11, 16, 3)]
    assert (source.width, source.height) == (64, 48), "of the first"


def test_clocks_that_are_missing_or_jump_back_never_turn_time_back(film):
    source, times = PushSource(), []
    for number, at in enumerate([5.0, 5.5, 2.0, 2.5, None]):
        source.push(film.picture(number), at)
        times.append(next(source).time)
    assert times[:2] == [0.0, 0.5] and times == sorted(set(times))
    assert times[3] - times[2] == pytest.approx(0.5) and times[2] < 1.0


def test_the_end_comes_behind_the_frame_that_waits_and_a_closed_source_says_so(film):
    for error in (None, VideoError("call", "the peer hung up")):
        source = PushSource(source="call")
        assert source.push(film.picture(3))
        source.end(error)
        assert not source.push(film.picture(4)), "nobody wants more"
        assert film.number(next(source).pixels) == 3
        if error:
            with pytest.raises(VideoError, match="hung up"):
                next(source)
        assert next(source, None) is None
    with PushSource() as source:
        source.push(film.picture(3))
    assert not source.push(film.picture(4)) and next(source, None) is None


def test_what_is_no_frame_is_refused_where_it_is_pushed(film):
    source = PushSource()
    for wrong in (np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), torch.zeros(3, 4, 4, dtype=torch.uint8), None, b"jpeg"):
        with pytest.raises(FrameError, match="a pushed frame is .*av.VideoFrame or uint8"):
            source.push(wrong)
    with pytest.raises(ArgumentError):
        source.push(film.picture(1), time=float("nan"))
    with pytest.raises(ArgumentError):
        PushSource(fps=0)
    blue = np.zeros((4, 6, 3), np.uint8)
    blue[..., 0] = 255
    source.push(blue[..., ::-1])  # BGR, as OpenCV has it
    assert next(source).pixels[0, 0].tolist() == [0, 0, 255]
