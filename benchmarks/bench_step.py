"""Step time against transformers with an incremental cache: same weights, same frames, same context, one process.

    python -m benchmarks.bench_step [--model qwen2.5-vl-7b] [--side 448] [--contexts 4096,16384] [--steps 30] [--json FILE]

Four columns: the engine as it runs (kernels and CUDA graphs), its kernels launched one by one, its plain-PyTorch twins, and the peer:
what a user of transformers writes, one `forward` a turn on the new turn's ids and pixel rows with a DynamicCache and explicit positions,
sdpa attention, last-position logits read back. The engine's time holds its own preprocessing, the peer gets pixel rows. Every step runs at
the same context: the cache is cut back after each. The decisions' logits are compared with the peer's on the way there.
"""

import argparse
import json
import statistics
import time

import torch

from evostreaming.engine.context import Piece, piece_positions

from .random_checkpoint import random_engine
from .reference_models import random_reference, same_weights


def frames(count, side):
    """Random but smooth uint8 frames on the GPU."""
    coarse = torch.rand(count, 3, 14, 14, device="cuda", generator=torch.Generator("cuda").manual_seed(1))
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bilinear")
    return list((fine * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous())


class Incremental:
    """transformers with a DynamicCache, one forward a turn."""

    def __init__(self, model, engine):
        from transformers import DynamicCache

        self.model, self.engine, self.cache = model, engine, DynamicCache()

    def inputs(self, spans, pixels, size):
        """Model inputs of some resident spans (the new turn) on the GPU."""
        ids, positions = [], []
        for span in spans:
            visual, grid = None, None
            if span.kind == "frame":
                grid = tuple(length // 28 for length in size)
                visual = (1, len(span.ids) - 1)
            ids += span.ids
            positions.append(piece_positions(Piece(span.kind, span.turn, span.ids, grid, visual), span.position, True)[0])
        pair = pixels.view(len(pixels), 3, 1, -1).expand(-1, 3, 2, -1).reshape(len(pixels), -1)
        grid_thw = torch.tensor([[1, size[0] // 14, size[1] // 14]], device="cuda")
        return {
            "input_ids": torch.tensor([ids], device="cuda"),
            "position_ids": torch.cat(positions, 1)[:, None].cuda(),
            "pixel_values": pair,
            "image_grid_thw": grid_thw,
        }

    @torch.inference_mode()
    def step(self, inputs):
        """One turn: next-token logits at the last position, on the host's clock until they are there."""
        out = self.model(**inputs, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        return out.logits[0, -1].float()


def timed(function, steps):
    """Milliseconds of each call, host clock around a synchronized call."""
    spent = []
    for _ in range(steps):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        function()
        torch.cuda.synchronize()
        spent.append((time.perf_counter() - begin) * 1e3)
    return spent


def summary(spent):
    """p50, p95 and p99 in milliseconds."""
    ranks = sorted(spent)
    return {"p50": statistics.median(ranks), "p95": ranks[int(0.95 * (len(ranks) - 1))], "p99": ranks[int(0.99 * (len(ranks) - 1))]}


@torch.inference_mode()
def measure(name, engine, peer, context, side, steps):
    """One row: our step and the peer's at about `context` tokens of context."""
    show = frames(4, side)
    row = {"model": name, "side": side}
    with engine.open(system="You watch a live video. Say SILENT unless something new happens.", logits=True) as stream:
        seen, first = 0, True
        while first or stream.context.table.live < context:
            step = engine.step(show[seen % 4], stream, force=False)
            if peer is not None:
                pixels = engine.frames.patches(show[seen % 4], stream.size)
                length = peer.cache.get_seq_length()
                spans, total = [], 0
                for span in stream.context.sinks + stream.context.window:
                    total += len(span.ids)
                    if total > length:
                        spans.append(span)
                logits = peer.step(peer.inputs(spans, pixels, stream.size))
                row["logits_difference"] = ((logits - step.logits).norm() / logits.norm()).item()
            seen, first = seen + 1, False
        row["context"] = stream.context.table.live
        latencies = []

        def ours():
            with stream.fork() as fork:
                latencies.append(engine.step(show[seen % 4], fork, force=False).latency)

        timed(ours, 8)
        latencies.clear()
        row["p50, p95, p99"] = summary(timed(ours, steps))
        stages = ("preprocess", "vision", "prefill", "gate")
        row["stages"] = {stage: statistics.median(getattr(each, stage) for each in latencies) for stage in stages}
        if peer is not None:
            with stream.fork() as fork:
                before = len(fork.context.window)
                engine.step(show[seen % 4], fork, force=False)
                spans = fork.context.window[before:]
                inputs = peer.inputs(spans, engine.frames.patches(show[seen % 4], stream.size), stream.size)
            row["new_tokens"] = inputs["input_ids"].shape[1]
            length = peer.cache.get_seq_length()

            def theirs():
                peer.step(inputs).argmax().item()
                peer.cache.crop(length)

            timed(theirs, 5)
            row["transformers"] = summary(timed(theirs, steps))
    return row


def use_plain_ops():
    """Put the plain-PyTorch twins in place of the kernels: the baseline that the kernels are measured against."""
    from evostreaming.engine import decoder, forward, frames
    from evostreaming.kernels import append, append_attention, gate, norm, preprocess, swiglu

    def plain_attention(q, key_pages, value_pages, plan):
        return append_attention.reference_append_attention(q, key_pages, value_pages, plan.live_slots, plan.host_query_start)

    decoder.append, decoder.norm, decoder.swiglu = append.reference_append, norm.reference_norm, swiglu.reference_swiglu
    decoder.append_attention, forward.gate, frames.preprocess = plain_attention, gate.reference_gate, preprocess.reference_preprocess


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-vl-7b", choices=["qwen2-vl-7b", "qwen2.5-vl-7b"])
    parser.add_argument("--side", type=int, default=448)
    parser.add_argument("--contexts", default="4096,16384")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json")
    options = parser.parse_args()
    contexts = [int(context) for context in options.contexts.split(",")]
    reference = random_reference(options.model, "cuda", torch.bfloat16)
    engine = random_engine(options.model, same_weights(options.model, reference), max_tokens=max(contexts) + 4096, max_streams=2)

    def column(name, peer=False):
        rows = []
        for context in contexts:
            other = Incremental(reference, engine) if peer else None
            row = measure(options.model, engine, other, context, options.side, options.steps)
            print(f"{row['model']} {row['side']}² context {row['context']}, {name}: {row['p50, p95, p99']} {row['stages']}", flush=True)
            if peer:
                print(f"  transformers {row['transformers']}; {row['new_tokens']} new tokens; logits differ {row['logits_difference']:.4f}")
            rows.append(row)
        return rows

    result = {"engine": column("engine", peer=True)}
    graphs, engine.forward.graphs, engine.frames.graphs = engine.forward.graphs, None, None
    if graphs is not None:
        result["kernels, no graphs"] = column("kernels, no graphs")
    use_plain_ops()
    result["plain ops"] = column("plain ops")
    for row, plain in zip(result["engine"], result["plain ops"]):
        ours, theirs = row["p50, p95, p99"]["p50"], row["transformers"]["p50"]
        ratios = f"{theirs / ours:.2f} to transformers, {plain['p50, p95, p99']['p50'] / ours:.2f} to plain ops"
        print(f"context {row['context']}: ratios of the engine {ratios}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "result": result}, file, indent=1)


if __name__ == "__main__":
    main()
