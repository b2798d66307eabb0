"""An engine and a video of known behavior, for tests of what stands around them. Run as a program it is the command line over both.

The engine speaks on every fifth frame, saying what it was asked last; the video is `FRAMES` gray frames, two seconds apart.
"""

import sys
import time
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from evostreaming import Gate, cli
from evostreaming.engine.errors import VideoError
from evostreaming.engine.step import Latency, Step

FRAMES = 12


@dataclass
class Source:
    frames: int = FRAMES
    broken_after: int | None = None  # frames delivered before the file turns out to be damaged
    expected: int | None = FRAMES
    duration: float | None = 2.0 * FRAMES
    dropped: int = 0
    decoded: int | None = None
    skipped: int | None = None

    def __iter__(self):
        for index in range(self.frames):
            if index == self.broken_after:
                raise VideoError("clip.mp4", "damaged packet", 2.0 * index)
            pixels = torch.full((90, 160, 3), 20 * (index % 12), dtype=torch.uint8)
            yield SimpleNamespace(pixels=pixels, time=2.0 * index, index=index)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Stream:
    def __init__(self, query):
        self.index, self.query = 0, query

    def ask(self, text):
        self.query = text

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Engine:
    device, gate = torch.device("cpu"), Gate()

    def __init__(self, pause=0.0):
        self.pause = pause

    def open(self, query=None, system=None):
        self.system = system
        return Stream(query)

    def step(self, frame, stream, time):
        assert frame.dtype is torch.uint8 and frame.ndim == 3
        sleep(self.pause)
        index, stream.index = stream.index, stream.index + 1
        speak = index % 5 == 4
        latency = Latency(1.0, 2.0, 3.0, 0.5, 4.0 * speak, 6.5 + 4.0 * speak)
        return Step(index, time, speak, 0.9 if speak else 0.1, f"heard: {stream.query}" if speak else None, 3 * speak, None, latency)


sleep = time.sleep

if __name__ == "__main__":
    cli.load_engine = lambda *args, **options: Engine(pause=0.1)
    cli.open_video = lambda path, fps: Source(frames=10_000, expected=10_000)
    sys.exit(cli.main())
