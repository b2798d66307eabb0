"""The contract every video input keeps: pictures in, sampled frames out, decoded ahead of the consumer.

A reader (file, camera, address, folder of images) is an object with the attributes `source, codec, width, height, rotation, fps,
duration, frames, live` and two methods:

    pictures(start, end, rate)   yields `Picture`s in the order of presentation, from the last one not after `start` (seconds) up to the
                                 first one at or after `end` (None: to the end), and raises one `VideoError` after the good pictures of a
                                 bad source. With a `rate` it may leave out pictures that no tick k / rate shows, but not the last one
    close()                      wakes a reader that waits for a connection; called from another thread
"""

import atexit
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import closing
from fractions import Fraction
from math import ceil, isfinite
from typing import NamedTuple

import torch

from .errors import ArgumentError, VideoError

LATER = 60  # seconds behind twice a stated duration at which a time stamp is taken for damage


class Picture(NamedTuple):
    """A decoded picture before its conversion to RGB, which only the delivered ones pay for."""

    time: Fraction  # seconds after the first picture of the source
    index: int  # place among the pictures of the source, from 0
    render: Callable[[], torch.Tensor]  # uint8 (H, W, 3) RGB, upright


class Frame(NamedTuple):
    """One frame as it goes to the engine."""

    pixels: torch.Tensor  # uint8 (H, W, 3) RGB, contiguous, upright
    time: float  # seconds: the tick it stands for, or its own presentation time when every frame is delivered
    index: int  # place among the frames of the source, from 0


class FrameSource:
    """Iterator and context manager over `Frame`s.

    `fps` is the rate of delivery (None for a live source that does not state its own), `width` and `height` are those of the first frame as
    displayed, `duration` is in seconds or None, `expected` is how many frames the header promises to deliver or None, `dropped` counts the
    frames that a live source replaced by newer ones before they were fetched, `decoded` and `skipped` count the pictures that went to the
    decoder and those that it could do without so far. With a `pool` (DecodePool) its threads decode instead of one of the source's own.
    Raises ArgumentError for `fps`, `start`, `end` or `queue` out of range.
    """

    def __init__(self, reader, fps=None, start=0.0, end=None, queue=8, pool=None):
        rate, start, end = exact_rate(fps), exact_time(start), None if end is None else exact_time(end)
        if start < 0 or (end is not None and end <= start):
            raise ArgumentError(f"start={float(start)}, end={end if end is None else float(end)}: 0 <= start < end is accepted, in seconds")
        if reader.live and start:
            raise ArgumentError(f"start={float(start)}: a live source starts now, leave start at 0")
        if queue < 1:
            raise ArgumentError(f"queue={queue}: at least one frame must fit")
        self.source, self.live, self._reader = reader.source, reader.live, reader
        self.width, self.height, self.duration = reader.width, reader.height, reader.duration
        self.fps = float(rate) if rate else reader.fps
        self.expected = _expected(reader, rate, start, end)
        # A live consumer that is late gets the newest frame, so one place is all a live queue needs.
        self._ready = Ready(1 if reader.live else queue, newest_wins=reader.live)
        frames = _render(_at_ticks(reader, rate, start, end))
        self._finish, self._thread = weakref.finalize(self, _finish, self._ready, reader), None
        if pool is not None and not reader.live:
            pool.add(frames, self._ready, reader, self.expected)
            return
        # The thread must not hold the source: one that is forgotten without close() still ends its thread.
        self._thread = threading.Thread(target=_run_ahead, args=(frames, self._ready), name=f"decode {reader.source}", daemon=True)
        self._thread.start()
        OPEN.add(self)

    @property
    def dropped(self):
        return self._ready.dropped

    @property
    def decoded(self):
        return getattr(self._reader, "decoded", None)

    @property
    def skipped(self):
        return getattr(self._reader, "skipped", None)

    def __iter__(self):
        return self

    def __next__(self):
        return self._ready.get()

    def close(self):
        """Stop decoding and let go of the source; frames not yet fetched are lost. Closing twice is fine."""
        self._finish()
        # A thread inside a network read cannot be woken: it ends by itself at the read's time limit.
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


OPEN = weakref.WeakSet()  # sources with a thread of their own, and pools


@atexit.register
def close_open():
    """At the end of the process: a thread that comes back from a decoder when the interpreter is gone aborts it."""
    for opened in list(OPEN):
        opened.close()


class Ready:
    """Bounded queue between who brings frames and the consumer; an error travels through it behind the frames before it."""

    def __init__(self, size, newest_wins):
        self.size, self.newest_wins, self.dropped = size, newest_wins, 0
        self.frames, self.changed = deque(), threading.Condition()
        self.ended, self.error, self.on_change = False, None, _nothing
        self.asked = False  # whether anybody has come for a frame

    def put(self, *frames):
        """Add frames; False when nobody wants any more."""
        with self.changed:
            for frame in frames:
                if self.newest_wins and len(self.frames) == self.size:
                    self.frames.popleft()
                    self.dropped += 1
                while len(self.frames) == self.size and not self.ended:
                    self.changed.notify_all()
                    self.changed.wait()
                if self.ended:
                    return False
                self.frames.append(frame)
            self.changed.notify_all()
            return True

    def get(self):
        if not self.asked:
            self.asked = True
            self.on_change()  # its turn may come sooner now
        with self.changed:
            while not self.frames and not self.ended:
                self.changed.wait()
            if not self.frames:
                error, self.error = self.error, None
                raise error or StopIteration
            self.changed.notify_all()
            held = len(self.frames)
            frame = self.frames.popleft()
        self.on_change(held)
        return frame

    def end(self, error=None):
        with self.changed:
            if not self.ended:
                self.ended, self.error = True, error
                self.changed.notify_all()

    def discard(self):
        with self.changed:
            self.end()
            self.error = None
            self.frames.clear()
        self.on_change()


def _nothing(held=None):
    pass


def _run_ahead(frames, ready):
    error = None
    try:
        for frame in frames:
            if not ready.put(frame):
                break
    except BaseException as caught:  # it belongs to the consumer, whatever it is
        error = caught
    finally:
        frames.close()
        ready.end(error)


def _finish(ready, reader):
    ready.discard()
    reader.close()


class Ticks:
    """Which of the pictures that come are shown when: each at its own time when `rate` is None, else the last one not after each tick
    k / rate, for start <= time < end.

    Times are fractions, so that no rounding moves a picture to the other side of a tick. A live source skips the ticks of a gap except the
    newest: nobody is served by a burst of old pictures.
    """

    def __init__(self, rate, start=Fraction(0), end=None, live=False):
        self.rate, self.start, self.end, self.live = rate, start, end, live
        self._tick, self._shown = ceil(start * rate) if rate else 0, None

    def after(self, picture):
        """Yield (time, picture) for what is due now that `picture` has come."""
        if self.rate is None:
            if picture.time >= self.start and self._before_end(picture.time):
                yield picture.time, picture
            return
        due, shown = ceil(picture.time * self.rate), self._shown
        first, self._tick, self._shown = self._tick, max(self._tick, due), picture
        if shown is not None:
            for k in range(max(first, due - 1) if self.live else first, due):
                if not self._before_end(k / self.rate):
                    return
                yield k / self.rate, shown
        if self._tick / self.rate == picture.time and self._before_end(picture.time):
            self._tick += 1
            yield picture.time, picture

    def _before_end(self, time):
        return self.end is None or time < self.end


def _at_ticks(reader, rate, start, end):
    ticks = Ticks(rate, start, end, reader.live)
    latest, reached = None if reader.duration is None else exact_time(2 * reader.duration + LATER), None
    for picture in reader.pictures(start, end, rate):
        if rate and latest is not None and picture.time > latest:  # each tick up to there would show the picture before
            reason = f"a picture is dated {float(picture.time):.0f} s in a video of {reader.duration:.0f} s"
            raise VideoError(reader.source, reason, reached)
        reached = float(picture.time)
        yield from ticks.after(picture)
        if end is not None and picture.time >= end:
            return


class Renderer:
    """Makes `Frame`s of pictures that are shown at a time (seconds), each picture once however often it is shown in a row."""

    def __init__(self):
        self._shown, self._pixels = None, None

    def __call__(self, time, picture):
        if picture is not self._shown:
            self._shown, self._pixels = picture, picture.render()
        return Frame(self._pixels, float(time), picture.index)


def _render(timed_pictures):
    render = Renderer()
    with closing(timed_pictures):  # in Python 3.12.3 to close a generator that has no `with` or `try` lets go of nothing
        for time, picture in timed_pictures:
            yield render(time, picture)


def _expected(reader, rate, start, end):
    if rate is None and not start and end is None and reader.frames:
        return reader.frames
    if reader.duration is None or not reader.fps:
        return None
    own = exact_rate(reader.fps)
    last = max(exact_time(reader.duration) - 1 / own, Fraction(0))  # the last picture starts one period before the end
    rate = rate or own
    until = last if end is None else min(last, end)
    ticks = int(until * rate + Fraction(1, 1000)) - ceil(start * rate) + 1  # a header's duration is rounded, a tick at it still counts
    return max(ticks - (end is not None and until == end and (end * rate).denominator == 1), 0)


def exact_rate(fps):
    """Rational rate: 0.1 becomes 1/10 and 29.97002997 becomes 30000/1001, whatever their binary fractions are.

    Raises ArgumentError for a rate that is not above 0 and below a million.
    """
    if fps is None:
        return None
    rate = Fraction(fps).limit_denominator(1_000_000) if fps > 0 and fps < 1e6 else Fraction(0)
    if not rate:
        raise ArgumentError(f"fps={fps}: a rate above 0 frames per second is accepted, or None for every frame")
    return rate


def exact_time(seconds):
    """Seconds as a fraction. Raises ArgumentError for nan and inf."""
    if not isfinite(seconds):
        raise ArgumentError(f"{seconds} seconds: start and end are finite numbers; leave end at None to read to the end")
    return Fraction(seconds).limit_denominator(1_000_000)
