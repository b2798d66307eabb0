"""Every backbone at its published size with random weights: bf16 error to a float32 truth, beside the reference's own; memory; step time.

    python -m benchmarks.full_size_parity [--models qwen2-vl-7b,...] [--turns 6] [--steps 30] [--json FILE]

A short stream (system prompt, query, silent turns of one 448 x 448 frame each) goes frame by frame through the engine in bfloat16. At every
decision the reference runs once over the same tokens and frames, in bfloat16 as its users run it (sdpa), then upcast to float32: the truth.
Errors are relative L2 over all decisions' logits. The engine passes with at most 1.1 times the reference's own error; otherwise the
exit code is 1. The step is timed on forks of the stream at 4,096 tokens of context, all stages included, as `Step.latency` reports it.
"""

import argparse
import gc
import json
import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from evostreaming.engine.cache import bytes_per_token
from evostreaming.engine.pixels import grid
from evostreaming.kernels.preprocess import reference_preprocess

from .random_checkpoint import MODELS, random_engine
from .reference_models import next_token_logits, random_reference, same_weights

SIDE = 448
CONTEXT = 4096
ALLOWED = 1.1
SYSTEM = "You watch a live video. Say SILENT unless something new happens."


def frames(count, device):
    """Random but smooth uint8 frames."""
    coarse = torch.rand(count, 3, 14, 14, generator=torch.Generator().manual_seed(1))
    fine = torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")
    return list((fine * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().to(device))


def watch(engine, stream, shown):
    """Show the frames, silent turns all: [(ids the decision was taken on, its logits), ...]."""
    prompt, taken_back = engine.dialogue.prompt, engine.dialogue.taken_back
    decisions = []
    for index, frame in enumerate(shown):
        step = engine.step(frame, stream, time=float(index), force=False)
        decisions.append(([*stream.context.tokens, *prompt[len(prompt) - taken_back :]], step.logits))
    return decisions


def decide_again(reference, engine, decisions, shown):
    """The reference's logits at the same decisions, one pass each: (decisions, V) float32."""
    config = engine.config
    pixels = config.pixels
    rows = [reference_preprocess(frame, (SIDE, SIDE), pixels.mean, pixels.std, pixels.patch, pixels.merge) for frame in shown]
    shape, visual_id = grid(pixels, SIDE, SIDE), engine.dialogue.turn.visual_id
    return torch.stack(
        [next_token_logits(reference, config, ids, visual_id, rows[: turn + 1], shape) for turn, (ids, _) in enumerate(decisions)]
    )


def relative(got, truth):
    return (torch.linalg.norm(got - truth) / torch.linalg.norm(truth)).item()


def compare(name, engine, reference, turns):
    """Errors of engine and reference; the reference is upcast in place."""
    shown = frames(turns, engine.device)
    with engine.open(system=SYSTEM, query="Tell me when somebody comes in.", logits=True) as stream:
        decisions = watch(engine, stream, shown)
    ours = torch.stack([logits for _, logits in decisions])
    theirs = decide_again(reference, engine, decisions, shown)
    reference.float()
    torch.backends.cudnn.allow_tf32 = False  # the patch embedding is a convolution
    with sdpa_kernel(SDPBackend.MATH):
        truth = decide_again(reference, engine, decisions, shown)
    assert torch.isfinite(truth).all() and truth.std() > 0.01, "the truth is degenerate"
    errors = {"engine": relative(ours, truth), "reference": relative(theirs, truth)}
    ids = decisions[-1][0]
    return {
        "model": name,
        "tokens": len(ids),
        "tokens_per_frame": ids.count(engine.dialogue.turn.visual_id) // turns,
        "error": errors,
        "ratio": errors["engine"] / errors["reference"],
        "agree": (ours.argmax(-1) == truth.argmax(-1)).float().mean().item(),
    }


def cost(engine, steps):
    """Memory of the engine alone on its device, and the time of a step at CONTEXT tokens."""
    decoder, parameters = engine.config.decoder, [*engine.model.tower.parameters(), *engine.model.decoder.parameters()]
    shown = frames(4, engine.device)
    row = {
        "weights_gib": sum(each.numel() * each.element_size() for each in parameters) / 2**30,
        "kv_bytes_per_token": bytes_per_token(decoder, engine.dtype),
        "cache_gib": (engine.cache.keys.nbytes + engine.cache.values.nbytes) / 2**30,
    }
    with engine.open(system=SYSTEM) as stream:
        while stream.context.table.live < CONTEXT:
            engine.step(shown[stream.index % 4], stream, force=False)
        spent = []
        for index in range(steps + 5):
            with stream.fork() as fork:
                spent.append(engine.step(shown[index % 4], fork, force=False).latency)
        spent = spent[5:]
        row["context"] = stream.context.table.live
    row["step_ms"] = {
        stage: statistics.median(getattr(each, stage) for each in spent) for stage in ("preprocess", "vision", "prefill", "gate", "total")
    }
    if engine.device.type == "cuda":
        row["allocated_gib"] = torch.cuda.memory_allocated() / 2**30
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return row


def release():
    """Give back the memory of models nobody holds; an engine and its streams hold each other."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(name, device, turns, steps):
    """One row of the table."""
    began = time.perf_counter()
    reference = random_reference(name, device)
    engine = random_engine(name, same_weights(name, reference), device, max_streams=2, max_tokens=2 * CONTEXT)
    row = compare(name, engine, reference, turns)
    del reference
    release()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    row |= cost(engine, steps)
    return row | {"seconds": time.perf_counter() - began}


def report(rows):
    """Two Markdown tables."""
    yield "| model | context | engine's error | reference's error | ratio (at most 1.1) | same first token as the truth |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        error = row["error"]
        both = f"{error['engine']:.3%} | {error['reference']:.3%}"
        yield f"| {row['model']} | {row['tokens']} | {both} | {row['ratio']:.2f} | {row['agree']:.0%} |"
    yield ""
    yield "| model | weights GiB | KV bytes a token | tokens a 448² frame | step p50 ms at context | vision | decoder | gate | peak GiB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in rows:
        step = row["step_ms"]
        yield (
            f"| {row['model']} | {row['weights_gib']:.2f} | {row['kv_bytes_per_token']:,} | {row['tokens_per_frame']} | "
            f"{step['total']:.2f} at {row['context']} | {step['vision']:.2f} | {step['prefill']:.2f} | {step['gate']:.2f} | "
            f"{row.get('peak_gib', 0):.1f} |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}", flush=True)
    rows = []
    for name in options.models.split(","):
        rows.append(measure(name, device, options.turns, options.steps))
        print(json.dumps(rows[-1]), flush=True)
        if options.json:
            with open(options.json, "w") as file:
                json.dump({"gpu": where, "torch": torch.__version__, "rows": rows}, file, indent=1)
        release()
    print("\n".join(report(rows)))
    sys.exit(any(row["ratio"] > ALLOWED for row in rows))


if __name__ == "__main__":
    main()
