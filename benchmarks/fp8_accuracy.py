"""What fp8 costs in accuracy: decision logits, first tokens and gates of float32, bfloat16 and fp8 engines on the same streams.

    python -m benchmarks.fp8_accuracy [--adapter tiny-evolved] [--data DIR] [--episodes 96] [--device cpu] [--sizes]

The built-in model, perhaps with an adapter, watches episodes of the world suite (made by `python -m evostreaming.tiny.suite DIR`; without
--data the folder in the user's cache). The bfloat16 engine decides and replies, the others are made to do as it did, so that all see the
same context at every turn; counted are the turns from a question on. A gate flips when "softmax" at 0.5 decides otherwise than in
bfloat16, a first token when the most likely token (silence, or the first of the answer) is another. An error is the relative L2 distance
of the decision logits to float32's. The model as shipped speaks at every turn, so gates say something with an evolved adapter only. On a
CPU the plain twins compute, with the weights that a GPU has. With --sizes also Qwen2.5-VL-7B shapes with random weights, on a GPU.
"""

import argparse
import copy
import statistics
from pathlib import Path

import torch

from evostreaming import Engine
from evostreaming.engine.quantization import quantize_model
from evostreaming.eval.discretize import Grid
from evostreaming.eval.engine_session import open_stream
from evostreaming.eval.suites import world
from evostreaming.eval.sweep_frames import open_video, turn_frames
from evostreaming.eval.sweep_plan import plan_watches

from .random_checkpoint import random_engine
from .workload import make_frames

STREAMS = 64
KINDS = {"bfloat16": "bfloat16", "float32": "float32", "fp8": "bfloat16"}  # and the dtype of what is not in fp8
MARGINS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of a probability, from one half


class Viewer:
    """One episode: its frames, and a stream of every engine."""

    def __init__(self, engines, watch):
        (strand,) = watch.strands
        self.times, self.asks, self.asked = Grid(watch.t_start, watch.fps, watch.length), strand.asks, min(strand.asks)
        with open_video(watch) as source:
            self.frames = [frame.pixels.clone() for frame in turn_frames(watch, source)]
        self.streams = {}
        for kind, engine in engines.items():
            self.streams[kind] = open_stream(engine)
            self.streams[kind].logits = True

    def ask(self, turn):
        for stream in self.streams.values():
            for query in self.asks.get(turn, ()):
                stream.ask(query.text)


@torch.inference_mode()
def watch_together(engines, watches):
    """{kind: [(logits, probability)]} of every turn of every watch from its question on; the first engine leads, the others follow."""
    rows, viewers = {kind: [] for kind in engines}, [Viewer(engines, watch) for watch in watches]
    for turn in range(max(len(viewer.frames) for viewer in viewers)):
        live = [viewer for viewer in viewers if turn < len(viewer.frames)]
        for viewer in live:
            viewer.ask(turn)
        frames, times = [viewer.frames[turn] for viewer in live], [viewer.times.time(turn) for viewer in live]
        force = None
        for kind, engine in engines.items():
            steps = engine.step(frames, streams=[viewer.streams[kind] for viewer in live], time=times, force=force)
            force = force or [step.text if step.speak else False for step in steps]
            counted = [step for viewer, step in zip(live, steps) if turn >= viewer.asked]
            rows[kind] += [(step.logits.float().cpu(), step.probability) for step in counted]
    for viewer in viewers:
        for stream in viewer.streams.values():
            stream.close()
    return rows


def compare(name, rows, exact, half):
    """Print one line: error to float32, flips against float32 and against bfloat16."""
    errors = [((ours - truth).norm() / truth.norm()).item() for (ours, _), (truth, _) in zip(rows, exact)]
    moved = [abs(ours - truth) for (_, ours), (_, truth) in zip(rows, exact)]
    print(
        f"{name:28} {len(rows):5} turns; logits off by {statistics.mean(errors):.4f} (worst {max(errors):.4f}), probability of speaking by "
        f"{statistics.mean(moved):.5f} (worst {max(moved):.4f}); gates flipped {flips(rows, exact, spoken)} against float32, "
        f"{flips(rows, half, spoken)} against bfloat16, which speaks on {share(map(spoken, half), half)}; first tokens flipped "
        f"{flips(rows, exact, first)} and {flips(rows, half, first)}",
        flush=True,
    )


def by_margin(rows, half):
    """Print how many gates flip against bfloat16 among those that are near one half there."""
    for margin in MARGINS:
        pairs = [(ours, other) for ours, other in zip(rows, half) if abs(other[1] - 0.5) <= margin]
        print(f"  within {margin} of one half: {sum(spoken(ours) != spoken(other) for ours, other in pairs)} of {len(pairs)} flipped")


def spoken(row):
    return row[1] >= 0.5


def first(row):
    return int(row[0].argmax())


def flips(rows, others, decision):
    return share((decision(ours) != decision(other) for ours, other in zip(rows, others)), rows)


def share(hits, of):
    count = sum(hits)
    return f"{count} ({100 * count / len(of):.2f} %)"


def built_in(adapter, data, episodes, device="cuda"):
    options = {"device": device, "adapter": adapter, "max_streams": STREAMS, "max_tokens": 4096, "max_reply": 24}
    engines = {kind: Engine.from_pretrained("tiny", dtype=dtype, **options) for kind, dtype in KINDS.items()}
    quantize_model(engines["fp8"].model)  # here, since a load in fp8 asks for a GPU
    folder = Path(data) if data else world.default_data()
    found = world.read(folder)[:episodes]
    watches = plan_watches(found, {episode.video: str(folder / episode.video) for episode in found}, alone=True)
    rows = {kind: [] for kind in KINDS}
    for begin in range(0, len(watches), STREAMS):
        for kind, more in watch_together(engines, watches[begin : begin + STREAMS]).items():
            rows[kind] += more
    for kind in KINDS:
        compare(f"built-in{' evolved' if adapter else ''}, {kind}", rows[kind], rows["float32"], rows["bfloat16"])
    by_margin(rows["fp8"], rows["bfloat16"])


@torch.inference_mode()
def silent_turns(engine, turns):
    """[(logits, probability)] of a stream of random frames that is kept silent."""
    frames = make_frames(4, (448, 448), "cuda")
    with engine.open(query="What happens?", logits=True) as stream:
        steps = [engine.step(frames[turn % 4], stream, time=float(turn), force=False) for turn in range(turns)]
        return [(step.logits.float().cpu(), step.probability) for step in steps]


def full_size(turns, name="qwen2.5-vl-7b"):
    engine = random_engine(name, max_tokens=4096)
    results, model = {"bfloat16": silent_turns(engine, turns)}, engine.model
    del engine
    wide = copy.deepcopy(model)
    wide.decoder.float()
    wide.tower.float()
    wide.tower._plans.clear()
    results["float32"] = silent_turns(random_engine(name, wide, max_tokens=4096), turns)
    del wide
    quantize_model(model)
    results["fp8"] = silent_turns(random_engine(name, model, max_tokens=4096), turns)
    for kind in ("bfloat16", "fp8"):
        compare(f"{name}, random, {kind}", results[kind], results["float32"], results["bfloat16"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapter", help='a PEFT LoRA directory, or "tiny-evolved"')
    parser.add_argument("--data", help="a folder of the world suite")
    parser.add_argument("--episodes", type=int, default=96)
    parser.add_argument("--device", default="cuda", help="cuda or cpu, of the built-in model")
    parser.add_argument("--sizes", action="store_true", help="also random weights of Qwen2.5-VL-7B's size")
    options = parser.parse_args()
    built_in(options.adapter, options.data, options.episodes, options.device)
    if options.sizes:
        full_size(8)


if __name__ == "__main__":
    main()
