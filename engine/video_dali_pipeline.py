"""DALI's pipelines: small files in, their frames out. They are built in the background, wait for the next file, and are few."""

import atexit
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache

import torch

from .capture_turns import TURNS
from .video_feed import Damaged
from .video_source import close_open

SEQUENCE = 8  # frames a run of a pipeline gives
MOST = 64  # pipelines on a GPU: each is a session of its decoder and holds some tens of pictures of the size of its video
BUILT_AT_ONCE = 4  # pipelines; the first takes about a second, each further one milliseconds


class DaliPipeline:
    """One DALI pipeline: small files in, their frames out. Each keeps one engine of the GPU busy. Free ones wait for the next file of
    whatever codec and size."""

    _idle, _lent, _building, _lock, _builders = {}, Counter(), Counter(), threading.Lock(), None

    def __init__(self, device):
        gpu = device.type == "cuda"
        with DaliPipeline._lock:  # several builders come at once
            self._stream = decode_stream(device) if gpu else None
        with TURNS.device_waits():  # to load the library is one already
            Pipeline, fn = _dali()
            # No run ahead: it would ask for frames of a file that was not fed yet. Others decode meanwhile.
            self._pipeline = Pipeline(1, 1, device.index if gpu else None, prefetch_queue_depth=1, exec_dynamic=True)
            with self._pipeline:
                # DALI would tie the threads of all pipelines to the same cores.
                place = {"device": "mixed", "affine": False} if gpu else {"device": "cpu"}
                video = fn.experimental.inputs.video(name="video", sequence_length=SEQUENCE, **place)
                self._pipeline.set_outputs(video)
            self._pipeline.build()

    @classmethod
    def ready(cls, device):
        """Whether a pipeline is free, or comes at once because others are at work."""
        return bool(cls._idle.get(str(device))) or 0 < cls._lent[str(device)] < MOST

    @classmethod
    def order(cls, device):
        """Begin to build one more in the background; None if there are enough."""
        with cls._lock:
            if cls._lent[str(device)] + cls._building[str(device)] >= MOST:
                return None
            cls._building[str(device)] += 1
            cls._builders = cls._builders or ThreadPoolExecutor(BUILT_AT_ONCE, "build")
        return cls._builders.submit(cls._build, device)

    @classmethod
    def cancel(cls, ordered, device):
        """Nobody waits for it any more. One that is being built already is kept for the next file."""
        if ordered is not None and ordered.cancel():
            with cls._lock:
                cls._building[str(device)] -= 1

    @classmethod
    def _build(cls, device):
        try:
            pipeline = cls(device)
            with cls._lock:
                cls._idle.setdefault(str(device), []).append(pipeline)
        except (RuntimeError, MemoryError) as error:
            warnings.warn(f"DALI cannot start, so a video is decoded on the CPU: {_cause(error)}", stacklevel=2)
        finally:
            with cls._lock:
                cls._building[str(device)] -= 1

    @classmethod
    @contextmanager
    def lent(cls, device):
        """A pipeline that is free, or a new one. One that failed or was left in the middle of a file is not used again."""
        place, pipeline, whole = str(device), None, False
        with cls._lock:
            idle = cls._idle.setdefault(place, [])
            if not idle and cls._lent[place] == MOST:
                warnings.warn(f"{MOST} videos are being decoded by DALI on {place}: further ones are decoded on the CPU", stacklevel=2)
                raise Damaged
            pipeline = idle.pop() if idle else None
            cls._lent[place] += 1
        try:
            pipeline = pipeline or cls(device)
            yield pipeline
            whole = True
        except (RuntimeError, MemoryError) as error:
            warnings.warn(f"DALI gave up on a video, which is now decoded on the CPU: {_cause(error)}", stacklevel=2)
            raise Damaged from error
        finally:
            if pipeline and not whole:
                pipeline.close()
            with cls._lock:
                cls._lent[place] -= 1
                if whole:
                    idle.append(pipeline)

    def sequences(self, data, count):
        """Yield the `count` frames of a file in memory, uint8 (bytes,), as uint8 tensors (n, H, W, 3), views of DALI's memory."""
        with TURNS.device_waits():
            self._pipeline.feed_input("video", [data])
        del data
        while count > 0:
            # Nothing is under way between two runs, so a reader may stop anywhere.
            with TURNS.device_waits(), torch.cuda.stream(self._stream):
                (sequence,) = self._pipeline.run()  # has waited for its frames
                frames = torch.from_dlpack(sequence[0])
            count -= len(frames)
            if count < 0:
                raise RuntimeError("more pictures came than there are packets")
            yield frames

    def close(self):
        """Free it now, in its turn."""
        with TURNS.device_waits():
            self._pipeline = None

    def apart(self, function, *arguments):
        return function(*arguments) if self._stream is None else done_apart(self._stream, function, *arguments)


# At the very end DALI would look for a driver that is gone.
atexit.register(lambda: DaliPipeline._idle.clear())


def _cause(error):
    """The line of a DALI error that says what happened: it stands behind "encountered:"."""
    lines = [line for line in str(error).partition("encountered:")[2].splitlines() or str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def done_apart(stream, function, *arguments):
    """What `function` returns, done when this returns; on a stream apart, so that it never queues behind a step of an engine."""
    with TURNS.device_waits(), torch.cuda.stream(stream):  # the first launch of a kernel loads it
        result = function(*arguments)
        stream.synchronize()
    return result


@cache
def _dali():
    from nvidia.dali import Pipeline, fn

    atexit.register(close_open)  # who reads goes before DALI's own end, which was registered just now
    return Pipeline, fn


@cache
def decode_stream(device):
    # One for all: memory that a frame gave back on one stream is not there for another.
    return torch.cuda.Stream(device)
