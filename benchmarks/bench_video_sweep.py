"""Share of a sweep's wall time that its engine waits for frames: videos on the disk, decoded by the sweep's own pool, watched by a model.

    python -m benchmarks.bench_video_sweep FOLDER [--random qwen2.5-vl-7b] [--streams 16] [--turns 40] [--bundles 2] [--gops 50,250]

FOLDER gets generated 720p H.264 files with a key frame every so many pictures, of which each stream watches one at half a frame a second,
128 tokens a frame. What decodes them is what `evostreaming eval` would take on this machine. Weights are random and have nothing to say, so
every stream speaks ten tokens on each tenth turn. One more bundle of videos is run first and not counted: graphs are captured in it.
"""

import argparse
import json
from pathlib import Path

from evostreaming.eval.episodes import Query
from evostreaming.eval.sweep_plan import Strand, Watch
from evostreaming.eval.sweep_workers import Worker

from .bench_eval import TOKENS_PER_FRAME, WINDOW_TOKENS, make_speak
from .bench_video import make_file
from .subject import Subject

FPS = 0.5


class Loaded:
    """A model as a sweep's worker wants it, with its engine already there."""

    def __init__(self, engine, streams):
        self.engine, self.streams = engine, streams

    def load(self):
        return self.engine


def bundles_of(path, streams, turns, count):
    """`count` lists of watches of one file, as many as there are streams, each asked something at once."""
    asks = {0: (Query("q", 0.0, "What happens?", "text"),)}
    return [
        [Watch(str(path), 0.0, FPS, (Strand(f"{bundle}-{number}", "RT", 0, turns - 1, asks),)) for number in range(streams)]
        for bundle in range(count)
    ]


def measure(engine, path, streams, turns, bundles):
    """{"turns", "seconds", "waited", "share"} of all bundles but the first. Raises RuntimeError if an episode failed."""
    worker = Worker(Loaded(engine, streams), "stream")
    work = bundles_of(path, streams, turns, bundles + 1)
    result = {"turns": 0, "seconds": 0.0, "waited": 0.0}
    try:
        for number, (bundle, upcoming) in enumerate(zip(work, [*work[1:], ()])):
            for done in worker.run(bundle, upcoming):
                if failed := [error for _, _, error in done.episodes if error]:
                    raise RuntimeError(failed[0])
                if number:
                    result = {name: value + getattr(done, name) for name, value in result.items()}
    finally:
        worker.ahead.close()
    return result | {"share": result["waited"] / result["seconds"], "turns_per_second": result["turns"] / result["seconds"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--random", default="qwen2.5-vl-7b", help="a published size with random weights")
    parser.add_argument("--model", help="a checkpoint instead; 'tiny' is built in")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--turns", type=int, default=40, help="of each video")
    parser.add_argument("--bundles", type=int, default=2, help="as many videos as there are streams, one after the other")
    parser.add_argument("--gops", default="50,250", help="pictures from key frame to key frame, of 25 a second")
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--json")
    options = parser.parse_args()
    subject = Subject.load(options.model, None if options.model else options.random)
    engine = subject.engine(WINDOW_TOKENS, options.streams, TOKENS_PER_FRAME)
    make_speak(engine)
    results = []
    for gop in map(int, options.gops.split(",")):
        path = make_file(options.folder, "h264", options.height, round(options.turns / FPS), gop)
        result = {"gop": gop, **measure(engine, path, options.streams, options.turns, options.bundles)}
        results.append(result)
        print(
            f"{options.height}p, a key frame every {gop} pictures: {result['turns']} turns, {result['turns_per_second']:.1f} a second,"
            f" {100 * result['share']:.2f} % of {result['seconds']:.1f} s waiting for frames",
            flush=True,
        )
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
