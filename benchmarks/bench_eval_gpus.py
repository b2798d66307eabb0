"""Several GPUs of one machine against one of them, on one slice of OVO-Bench's time lines, shared as `evostreaming eval --gpus N` does.

    python -m benchmarks.bench_eval_gpus ANNOTATION [--gpus 2] [--slice 0.04] [--streams 16] [--json FILE]

Weights, frames and replies are those of `bench_eval`: random, made on the device, ten tokens on each tenth turn. A process and an engine a
GPU; loading is not counted. The slice runs on all GPUs, then on one, then on all again, and the first pass is not counted either: it
leaves every engine with the CUDA graphs it needs. Bundles above a tenth of the slice stay out of it: the longest of the whole is a
twentieth of all turns, but in a slice the other GPUs would wait for it.
"""

import argparse
import json
import time
from functools import partial

from evostreaming.eval.sweep_plan import plan_bundles, plan_watches
from evostreaming.eval.sweep_processes import Processes, visible_gpus
from evostreaming.eval.sweep_workers import Worker, spread

from .bench_eval import TOKENS_PER_FRAME, WINDOW_TOKENS, Synthetic, choose, cost, load_episodes, make_speak
from .subject import Subject
from .workload import frame_shape, make_frames


class Made:
    """Frames for a `Worker` that are there already."""

    def __init__(self, frames):
        self.frames, self.waited = frames, 0.0

    def prepare(self, watches):
        pass

    def __call__(self, watch):
        return Synthetic(watch, self.frames)


class Synthetics(Worker):
    """A `Worker` whose engine has random weights (or is `model`, a checkpoint) and sees made frames."""

    def __init__(self, random, model, streams):
        subject = Subject.load(model, None if model else random)
        self.policy, self.engine = "stream", subject.engine(WINDOW_TOKENS, streams, TOKENS_PER_FRAME)
        self.ahead = Made(make_frames(32, frame_shape(subject.config.pixels, TOKENS_PER_FRAME), subject.device))
        self._open = self.engine.open

    def run(self, bundle, upcoming=()):
        # When a stream speaks must not depend on what this engine ran before.
        self.engine.open = self._open
        make_speak(self.engine)
        yield from super().run(bundle, upcoming)


def slice_of(bundles, share):
    """Evenly spaced bundles with `share` of all turns, none of them above a tenth of the slice."""
    turns = share * sum(map(cost, bundles))
    small = [bundle for bundle in bundles if cost(bundle) <= turns / 10]
    return choose(small, turns / sum(map(cost, small)))


def run(hands, bundles):
    """(seconds, turns, `{episode: [what it said on each turn]}`) of `bundles` shared among `hands`. Raises RuntimeError if one failed."""
    turns, said = 0, {}
    began = time.perf_counter()
    for done in spread(hands, bundles):
        turns += done.turns
        for name, rows, error in done.episodes:
            if bad := error or next((row.err for row in rows if row.err), None):
                raise RuntimeError(f"episode {name}: {bad}")
            said[name] = [row.raw for row in rows]
    return time.perf_counter() - began, turns, said


def measure(gpus, bundles, make):
    """JSON values: turns and turns per second of one GPU and of all `gpus`, values of CUDA_VISIBLE_DEVICES; episodes that said the same."""
    began = time.perf_counter()
    with Processes(make, gpus) as hands:
        for hand in hands:
            hand.ready()
        print(f"{len(hands)} engines loaded in {time.perf_counter() - began:.0f} s", flush=True)
        passes = []
        for some, what in ((hands, "first pass on all"), (hands[:1], "one GPU"), (hands, "all GPUs")):
            passes.append(run(some, bundles))
            seconds, turns, said = passes[-1]
            print(f"{what}: {turns} turns, {len(said)} episodes in {seconds:.1f} s, {turns / seconds:.1f} turns/s", flush=True)
    first, one, every = passes
    assert first[1] == one[1] == every[1] == sum(map(cost, bundles))
    return {
        "gpus": len(gpus), "bundles": len(bundles), "turns": one[1], "seconds_one": one[0], "seconds_all": every[0],
        "turns_per_second_one": one[1] / one[0], "turns_per_second_all": every[1] / every[0], "ratio": one[0] / every[0],
        "episodes": len(one[2]), "episodes_that_said_the_same": sum(every[2][name] == said for name, said in one[2].items()),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation")
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--random", default="qwen2.5-vl-7b", help="a published size with random weights")
    parser.add_argument("--model", help="a checkpoint instead; 'tiny' is built in")
    parser.add_argument("--slice", type=float, default=0.04, help="share of all turns to measure")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--json")
    options = parser.parse_args()
    episodes = load_episodes(options.annotation, shorten=options.model is None)
    bundles = plan_bundles(plan_watches(episodes, {e.video: e.video for e in episodes}), options.streams)
    chosen = slice_of(bundles, options.slice)
    print(f"slice: {len(chosen)} of {len(bundles)} bundles, {100 * sum(map(cost, chosen)) / sum(map(cost, bundles)):.1f} % of the turns")
    result = measure(visible_gpus(options.gpus), chosen, partial(Synthetics, options.random, options.model, options.streams))
    print(f"{result['gpus']} GPUs: {result['ratio']:.2f} times as fast as one;", end=" ")
    print(f"{result['episodes_that_said_the_same']} of {result['episodes']} episodes said the same on both")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
