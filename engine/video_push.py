"""Frames that come from elsewhere: a WebRTC track, a callback of a camera, a window grabber. The newest one wins."""

import threading
from functools import partial

import av
import numpy as np
import torch

from .errors import FrameError
from .video_colors import ToRgb
from .video_live import Clock, stamp_of
from .video_source import Picture, Ready, Renderer, Ticks, exact_rate, exact_time


class PushSource:
    """A live source, iterated over like a `FrameSource`, whose frames any thread or event loop pushes.

    One frame waits for the consumer; one that was not fetched before the next one came is counted in `dropped`, and never converted.
    fps: None for every frame, else ticks as in `open_source`. `width` and `height` are those of the first frame fetched, None before.
    Raises ArgumentError for `fps` out of range.
    """

    live, duration, expected, decoded, skipped = True, None, None, None, None

    def __init__(self, fps=None, source="pushed frames"):
        self.source, self.fps, self.width, self.height = source, fps, None, None
        self._ticks, self._clock, self._count = Ticks(exact_rate(fps), live=True), Clock(), 0
        self._ready, self._pushing, self._to_rgb = Ready(1, newest_wins=True), threading.Lock(), ToRgb(source)
        self._render = Renderer()

    def push(self, frame, time=None):
        """Bring the next frame; never waits. Returns whether more are wanted.

        frame: av.VideoFrame, or uint8 (H, W, 3) RGB as an array or tensor, which is not copied: leave it alone afterwards. time: seconds on
        any clock that runs with the frames; by default the frame's own presentation time, else now. Times are counted from the first frame;
        one that does not lie behind the frame before it is replaced by the wall clock. Raises FrameError for anything else.
        """
        pixels = None if isinstance(frame, av.VideoFrame) else _checked(frame)
        stamp = stamp_of(frame) if pixels is None else None
        with self._pushing:
            if self._ready.ended:
                return False
            moment = self._clock.time_of(stamp if time is None else exact_time(time))
            render = partial(self._to_rgb, frame, moment) if pixels is None else lambda: pixels
            picture, self._count = Picture(moment, self._count, render), self._count + 1
            for due, shown in self._ticks.after(picture):
                self._ready.put((due, shown))
        return not self._ready.ended

    def end(self, error=None):
        """No more frames come: iteration stops behind the one that waits, or raises `error` there."""
        self._ready.end(error)

    @property
    def dropped(self):
        return self._ready.dropped

    def __iter__(self):
        return self

    def __next__(self):
        frame = self._render(*self._ready.get())
        if self.width is None:
            self.height, self.width = frame.pixels.shape[:2]
        return frame

    def close(self):
        """Nobody wants frames any more; one that waits is lost."""
        self._ready.discard()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _checked(frame):
    # torch takes no arrays that run backwards, as one does whose blue and red were exchanged.
    pixels = torch.from_numpy(np.ascontiguousarray(frame)) if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 else frame
    if not isinstance(pixels, torch.Tensor) or pixels.dtype != torch.uint8 or pixels.dim() != 3 or pixels.shape[2] != 3:
        given = f"{getattr(frame, 'dtype', type(frame).__name__)} {tuple(getattr(frame, 'shape', ()))}"
        raise FrameError(f"a pushed frame is {given}: an av.VideoFrame or uint8 (H, W, 3) RGB is accepted")
    return pixels.contiguous()
