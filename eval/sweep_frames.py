"""The frames of a video, one a turn, decoded ahead of the model."""

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

from ..engine.errors import VideoError
from .discretize import SLACK, Grid
from .stream import sample
from .sweep_plan import WINDOW

OPENERS = 4  # threads: to open a file is to decode its first picture


def open_video(watch, pool=None):
    """A `FrameSource` that delivers what the turns of `watch` need, decoded by the threads of `pool`. Raises VideoError."""
    from ..engine.video import open_source  # a model can be driven where no decoder is installed

    end = watch.t_start + (watch.length - 0.5) / watch.fps
    # Turns that fall on the source's ticks need no other frame; turns between them need every frame, to find the last one not after.
    on_ticks = abs(watch.t_start * watch.fps - round(watch.t_start * watch.fps)) < SLACK
    fps, start = (watch.fps, watch.t_start) if on_ticks else (None, 0.0)
    # The turns of a window, and the frame behind them, which says that the last one stands.
    return open_source(watch.path, fps=fps, start=start, end=end, queue=WINDOW + 1, pool=pool)


class Ahead:
    """`open_video` for a worker: what `prepare` was told of is already decoding, by one pool, when it is asked for.

    `waited`: seconds in which whoever asked had to wait for a video to open or for its next frame.
    """

    def __init__(self):
        from ..engine.video_pool import DecodePool  # as above

        self.waited = 0.0
        self._opening, self._opener, self._pool = {}, ThreadPoolExecutor(OPENERS, "open"), DecodePool()

    def prepare(self, watches):
        """Begin to decode the videos of `watches`, the first one first."""
        for watch in watches:
            if watch not in self._opening:
                self._opening[watch] = self._opener.submit(open_video, watch, self._pool)

    def __call__(self, watch):
        self.prepare([watch])
        return Awaited(self.wait(self._opening.pop(watch).result), self)

    def wait(self, deliver):
        """`deliver()`, on the clock."""
        began = perf_counter()
        try:
            return deliver()
        finally:
            self.waited += perf_counter() - began

    def close(self):
        """Let go of what was prepared and never asked for, and of the threads."""
        self._opener.shutdown(cancel_futures=True)
        for opened in self._opening.values():
            if not opened.cancelled() and not opened.exception():
                opened.result().close()
        self._opening.clear()
        self._pool.close()


class Awaited:
    """A `FrameSource` whose frames are waited for on the clock of `ahead`."""

    def __init__(self, source, ahead):
        self._source, self._ahead, self.close = source, ahead, source.close

    def __iter__(self):
        return self

    def __next__(self):
        return self._ahead.wait(self._source.__next__)


def turn_frames(watch, source):
    """Yield the `Frame` of every turn: the last one not after it, also after the video's end.

    Raises VideoError at the first turn that a damaged source has no frame for.
    """
    turns, broken = Grid(watch.t_start, watch.fps, watch.length), []
    for k, frame in enumerate(sample(_until_broken(source, broken), turns)):
        now = turns.time(k)
        if broken and (frame is None or frame.time <= now - 1 / watch.fps):
            raise broken[0]
        if frame is None:
            raise VideoError(watch.path, f"has no frame at or before {now:g} s")
        yield frame


def _until_broken(source, broken):
    # The error has to wait until the frames in front of it are used up, and `sample` reads one ahead.
    try:
        for frame in source:
            yield frame, frame.time
    except VideoError as error:
        broken.append(error)
