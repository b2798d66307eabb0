"""A whole RealStreamEval pass over OVO-Bench, projected from a slice of its real time lines, against transformers in the same process.

    python -m benchmarks.bench_eval ANNOTATION [--random qwen2.5-vl-7b] [--slice 0.05] [--streams 16] [--json FILE]

ANNOTATION is `ovo_bench_new.json`. What is real: which turns there are, when queries come and how long they are, what each stream may keep.
What is not: weights and frames are random, frames lie on the device (decoding is measured elsewhere), and since random weights have nothing
to say, every stream speaks ten tokens on each tenth turn. Bundles of videos are taken evenly from the longest to the shortest until the
slice is full; the time of the whole is that of the slice times all turns over its turns. One more bundle is run first and not counted.

transformers (sdpa, one forward a turn on an incremental cache) is timed at four lengths of context, a turn of every stream is priced at its
own context in between, and speaks as often. It is projected twice: with each record streamed from its beginning, as the benchmarks'
own scripts do, and on the turns that are left when each video is streamed once and forked.
"""

import argparse
import json
import time
from bisect import bisect_left
from dataclasses import replace
from itertools import count

import torch

from evostreaming.engine.gate import Gate
from evostreaming.engine.video_source import Frame
from evostreaming.eval import sweep_lanes
from evostreaming.eval.discretize import Grid, grid
from evostreaming.eval.suites.ovobench import read
from evostreaming.eval.sweep_plan import plan_bundles, plan_watches

from .peers import Incremental, model_inputs
from .subject import Subject
from .workload import frame_shape, make_frames, record

TOKENS_PER_FRAME, WINDOW_TOKENS, REPLY, EVERY = 128, 16384, 10, 10
CONTEXTS = (256, 4096, 8192, 16384)
# The stand-in tokenizer of random weights has a token for every byte; a real one has about one for four.
BYTES_PER_TOKEN = 4


class Synthetic:
    """The frames of one watch: as many as it needs, out of a few."""

    def __init__(self, watch, frames):
        turns = Grid(watch.t_start, watch.fps, watch.length)
        self.source = watch.path
        self._frames = (Frame(frames[k % len(frames)], turns.time(k), k) for k in range(turns.n))

    def __iter__(self):
        return self._frames

    def close(self):
        pass


def load_episodes(path, shorten):
    """OVO-Bench at 0.5 fps; `shorten`: queries cut to as many bytes as they have tokens."""
    episodes = read(path, fps=0.5)
    if not shorten:
        return episodes
    cut = [tuple(replace(q, text=q.text[: len(q.text) // BYTES_PER_TOKEN]) for q in e.queries) for e in episodes]
    return [replace(e, queries=queries) for e, queries in zip(episodes, cut)]


def choose(bundles, share):
    """Evenly spaced bundles with at least `share` of all turns."""
    wanted = share * sum(map(cost, bundles))
    for many in range(1, len(bundles) + 1):
        chosen = [int((i + 0.5) * len(bundles) / many) for i in range(many)]
        if sum(cost(bundles[i]) for i in chosen) >= wanted:
            break
    return [bundles[i] for i in chosen]


def cost(bundle):
    return sum(watch.turns for watch in bundle)


def drive(engine, bundles, frames):
    """Run bundles: (seconds, turns, turns that spoke). Raises RuntimeError if an episode failed."""
    turns = spoken = 0
    synchronize()
    began = time.perf_counter()
    for bundle in bundles:
        for taken, ended in sweep_lanes.watch_bundle(engine, bundle, lambda watch: Synthetic(watch, frames)):
            turns += taken
            for name, rows, error in ended:
                bad = error or next((row.err for row in rows if row.err), None)
                if bad:
                    raise RuntimeError(f"episode {name}: {bad}")
                spoken += sum(not row.silent for row in rows)
    synchronize()
    return time.perf_counter() - began, turns, spoken


def make_speak(engine):
    """Random weights have no opinion: the gate lets everything through, its refractory period makes nine turns of ten silent. Streams speak
    on different turns: replies that all fall on one turn would share the cost of decoding."""
    engine.gate, engine.max_reply = Gate(threshold=0.0, refractory=EVERY - 1), REPLY
    opened, number = engine.open, count()

    def begin(**options):
        stream = opened(**options)
        stream.refractory = 7 * next(number) % EVERY
        return stream

    engine.open = begin


def synchronize():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Filled(Incremental):
    """transformers behind a cache that holds `context` tokens of noise: what is there does not change how long a turn takes."""

    def __init__(self, subject, workload, context):
        from transformers import DynamicCache

        self.model, self.cache, self.length = subject.reference(), DynamicCache(), context
        decoder = subject.config.decoder
        for layer in range(decoder.layers):
            shape = (1, decoder.kv_heads, context, decoder.head_dim)
            self.cache.update(*(torch.randn(shape, device=subject.device, dtype=subject.dtype) for _ in range(2)), layer)
        self.inputs = model_inputs(workload.config, [workload.turn], subject.device, subject.dtype)
        self.token = {"input_ids": self.inputs["input_ids"][:, :1], "position_ids": self.inputs["position_ids"][..., -1:] + 1}

    def word(self):
        """One more token of a reply."""
        return self.forward(self.token)


def peer_times(subject, workload, contexts, repeats=6):
    """`[(context, seconds of a turn, seconds of a token)]` of transformers, the fastest of some."""
    rows = []
    for context in contexts:
        peer = Filled(subject, workload, context)
        spent = {}
        for what, call in (("turn", peer.step), ("token", peer.word)):
            for _ in range(repeats):
                synchronize()
                began = time.perf_counter()
                call().argmax().item()
                spent.setdefault(what, []).append(time.perf_counter() - began)
                peer.rewind()
        rows.append((context, min(spent["turn"][1:]), min(spent["token"][1:])))
        print(f"transformers at {context} tokens: {1e3 * rows[-1][1]:.1f} ms a turn, {1e3 * rows[-1][2]:.1f} ms a token", flush=True)
    return rows


def peer_seconds(rows, lengths, new_tokens, start=0):
    """Seconds transformers needs for streams of `lengths` turns that begin behind `start` turns, every tenth of them spoken."""
    most = max(lengths)
    sums = [0.0]
    for k in range(most):
        context = min((start + k) * new_tokens, WINDOW_TOKENS)
        sums.append(sums[-1] + between(rows, context, 1) + REPLY / EVERY * between(rows, context, 2))
    return sum(sums[length] for length in lengths)


def between(rows, context, column):
    """Linear in the context, flat outside."""
    at = bisect_left([row[0] for row in rows], context)
    if at in (0, len(rows)):
        return rows[min(at, len(rows) - 1)][column]
    low, high = rows[at - 1], rows[at]
    return low[column] + (high[column] - low[column]) * (context - low[0]) / (high[0] - low[0])


def forked_seconds(rows, watches, new_tokens):
    """The same with every video streamed once and forked."""
    trunks = peer_seconds(rows, [watch.trunk for watch in watches], new_tokens)
    strands = (s for watch in watches for s in watch.strands)
    return trunks + sum(peer_seconds(rows, [s.last + 1], new_tokens) - peer_seconds(rows, [s.first], new_tokens) for s in strands)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("annotation")
    parser.add_argument("--random", default="qwen2.5-vl-7b", help="a published size with random weights")
    parser.add_argument("--model", help="a checkpoint instead; 'tiny' is built in")
    parser.add_argument("--slice", type=float, default=0.05, help="share of all turns to measure")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--contexts", default=",".join(map(str, CONTEXTS)), help="at which transformers is timed; empty: not at all")
    parser.add_argument("--compare", action="store_true", help="also compare batches and scans, on the bundle for warming up")
    parser.add_argument("--json")
    options = parser.parse_args()
    contexts = [int(context) for context in options.contexts.split(",") if context]

    episodes = load_episodes(options.annotation, shorten=options.model is None)
    watches = plan_watches(episodes, {e.video: e.video for e in episodes})
    bundles = plan_bundles(watches, options.streams)
    warm_up, chosen = bundles[len(bundles) * 7 // 10], choose(bundles, options.slice)
    all_turns, slice_turns = sum(map(cost, bundles)), sum(map(cost, chosen))
    dedicated = sum(grid(e).n for e in episodes)
    print(f"OVO-Bench, 0.5 fps: {len(episodes)} episodes of {dedicated} turns; {len(watches)} videos once and forked: {all_turns} turns")

    subject = Subject.load(options.model, None if options.model else options.random, peers=bool(contexts))
    engine = subject.engine(WINDOW_TOKENS, options.streams, TOKENS_PER_FRAME)
    frames = make_frames(32, frame_shape(subject.config.pixels, TOKENS_PER_FRAME), subject.device)
    workload = record(engine, 512, frames)
    new_tokens = len(workload.turn.ids)
    make_speak(engine)
    seconds, turns, _ = drive(engine, [warm_up], frames)
    print(f"warm-up: {turns} turns in {seconds:.1f} s; CUDA graphs kept: {engine.captures[0]}", flush=True)
    seconds, turns, _ = drive(engine, chosen, frames)
    assert turns == slice_turns
    share, whole = slice_turns / all_turns, seconds * all_turns / slice_turns
    result = {
        "model": subject.name, "device": torch.cuda.get_device_name() if subject.device.type == "cuda" else "cpu",
        "episodes": len(episodes), "turns_dedicated": dedicated, "turns_forked": all_turns, "new_tokens": new_tokens,
        "slice": share, "slice_turns": turns, "slice_seconds": seconds, "turns_per_second": turns / seconds,
        "projected_minutes": whole / 60, "graphs": engine.captures[0],
    }  # fmt: skip
    print(
        f"slice: {100 * share:.1f} % ({len(chosen)} of {len(bundles)} bundles, {turns} turns of {new_tokens} tokens) in {seconds:.1f} s,",
        end=" ",
    )
    print(f"{turns / seconds:.1f} turns/s; the whole: {whole / 60:.1f} minutes on one GPU", flush=True)
    if contexts:
        rows = peer_times(subject, workload, contexts)
        alone = peer_seconds(rows, [grid(e).n for e in episodes], new_tokens)
        forked = forked_seconds(rows, watches, new_tokens)
        result |= {"transformers": rows, "transformers_dedicated_minutes": alone / 60, "transformers_forked_minutes": forked / 60}
        print(f"transformers, each record from its beginning: {alone / 60:.0f} minutes, {alone / whole:.1f} times as long")
        print(f"transformers, each video once and forked: {forked / 60:.0f} minutes, {forked / whole:.1f} times as long", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    if options.compare:
        for limit, what in ((0, "batches only"), (sweep_lanes.SCAN_BELOW, "both"), (options.streams + 1, "scans wherever silent")):
            sweep_lanes.SCAN_BELOW = limit
            drive(engine, [warm_up], frames)
            seconds, turns, _ = drive(engine, [warm_up], frames)
            print(f"{what}: {turns / seconds:.1f} turns/s", flush=True)


if __name__ == "__main__":
    main()
