"""What the decoding engines of a GPU give: NVIDIA's own decoder library and bare DALI pipelines beside the pool, every frame beside one in
two seconds.

    python -m benchmarks.bench_nvdec FOLDER [--seconds 6]

FOLDER gets generated H.264 files: 1080p, of which every frame is decoded, by PyNvVideoCodec if it can be imported, by pipelines that do
nothing else, and by 8 and 16 sources of a pool; and ten minutes of 720p with a key frame every 2 and every 10 s, of which 16 sources show
one frame in two seconds and then all.
"""

import argparse
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from itertools import islice
from math import inf
from pathlib import Path

import torch

from evostreaming.engine.video_dali import DaliFile, _finished
from evostreaming.engine.video_dali_colors import colors_of
from evostreaming.engine.video_dali_pipeline import DaliPipeline
from evostreaming.engine.video_file import VideoFile
from evostreaming.engine.video_pool import DecodePool

from .bench_video import FPS, PIPELINES, make_file, pooled

FILES = 16
SPARSE = 0.5  # frames a second


class SmallFile:
    """The largest of the first two small files that DALI is given of a video, and what is done to its frames."""

    def __init__(self, path, device):
        file, self.device = VideoFile(path), device
        self.turn, self.colors = file.turn, colors_of(file, device)
        with file.open() as container:
            files = DaliFile(file, device)._small_files(container, file.plan(Fraction(0), None, None))
            self.data, order = max(islice(files, 2), key=lambda small: len(small[0]))
        self.frames = len(order)

    def bare(self, pipeline):
        """Decode it and look at nothing; yields numbers of frames."""
        pipeline._pipeline.feed_input("video", [self.data])
        left = self.frames
        while left > 0:
            (sequence,) = pipeline._pipeline.run()
            left -= (count := sequence[0].shape()[0])
            yield count

    def finished(self, pipeline):
        """The same with all that becomes of a frame."""
        for sequence in pipeline.sequences(self.data, self.frames):
            pipeline.apart(_finished, sequence, list(range(len(sequence))), self.turn, self.colors)
            yield len(sequence)

    def again(self, decode):
        """Decode it again and again in a pipeline of its own."""
        with DaliPipeline.lent(self.device) as pipeline:
            while True:
                yield from decode(self, pipeline)


def by_nvidia(path, device):
    """Decode a video again and again by NVIDIA's own library; yields numbers of frames, which stay on the GPU as they are."""
    import PyNvVideoCodec

    decoder = None
    while True:
        demuxer = PyNvVideoCodec.CreateDemuxer(filename=str(path))
        decoder = decoder or PyNvVideoCodec.CreateDecoder(gpuid=device.index, codec=demuxer.GetNvCodecId(), usedevicememory=True)
        for packet in demuxer:
            yield len(decoder.Decode(packet))


def side_by_side(number, endless, seconds):
    """Frames a second of `number` threads once all have begun, each with an `endless()` of numbers of frames."""
    together = threading.Barrier(number)

    def one(_):
        with closing(endless()) as counts:
            while not next(counts):
                pass
            together.wait()
            frames, begun = 0, time.perf_counter()
            while time.perf_counter() - begun < seconds:
                frames += next(counts)
            return frames / (time.perf_counter() - begun)

    with ThreadPoolExecutor(number) as threads:
        return sum(threads.map(one, range(number)))


def every_frame(path, files, device, seconds):
    """(seconds until all sources of a pool had begun, frames a second from then on, the same with the start)."""
    begun, counts, state = [None] * files, [0] * files, {}
    start = time.perf_counter()
    with DecodePool(PIPELINES) as pool, ThreadPoolExecutor(files) as consumers:

        def consume(number):
            with pool.open(path, decoder="dali", device=device) as source:
                for _ in source:
                    now, counts[number] = time.perf_counter(), counts[number] + 1
                    if counts[number] == 1:
                        begun[number] = now - start
                        if None not in begun:
                            state["at"], state["frames"] = now, sum(counts)
                    if state and now - state["at"] > seconds:
                        return

        list(consumers.map(consume, range(files)))
        end = time.perf_counter()  # the end of the pool and its threads does not count
    return max(begun), (sum(counts) - state["frames"]) / (end - state["at"]), sum(counts) / (end - start)


def sampled(path, device):
    """Seconds in which a pool shows `FILES` videos to their ends at `SPARSE`."""
    start = time.perf_counter()
    pooled("dali", device, PIPELINES)([path] * FILES, SPARSE, inf)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    device, say = torch.device("cuda", torch.cuda.current_device()), lambda line: print(line, flush=True)
    long = make_file(options.folder, "h264", 1080, 240)
    small, measure = SmallFile(long, device), partial(side_by_side, seconds=options.seconds)
    for number in (FILES, FILES // 2) if find_spec("PyNvVideoCodec") else ():
        say(f"1080p, {number} decoders of PyNvVideoCodec: {measure(number, partial(by_nvidia, long, device)):,.0f} frames/s")
    for number, decode in ((2 * FILES, SmallFile.bare), (FILES, SmallFile.bare), (FILES // 2, SmallFile.bare), (FILES, SmallFile.finished)):
        say(f"1080p, {number} pipelines, {decode.__name__}: {measure(number, partial(small.again, decode)):,.0f} frames/s")
    for files in (FILES, FILES // 2):
        first, rate, whole = every_frame(long, files, device, options.seconds)
        say(f"1080p, {files} sources: all begun after {first:.2f} s, then {rate:,.0f} frames/s, {whole:,.0f} with the start")
    for gop in (50, 250):
        path = make_file(options.folder, "h264", 720, 600, gop)
        seconds = sampled(path, device)
        _, rate, whole = every_frame(path, FILES, device, options.seconds)
        times, dense = FILES * 600 / seconds, (rate / FPS, whole / FPS)
        say(
            f"720p, a key frame every {gop} pictures: {SPARSE} fps at {times:,.0f} x real time with the start; every frame at"
            f" {dense[0]:,.0f} x, {dense[1]:,.0f} x with the start: {times / dense[0]:.1f} and {times / dense[1]:.1f} times as fast"
        )


if __name__ == "__main__":
    main()
