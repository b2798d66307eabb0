"""The towers at published sizes with random weights, 448² frames. No peer: `evostreaming bench --peers` has the whole step's.

    python -m benchmarks.bench_tower [--refcheck] [--only "qwen2.5-vl-7b"]

The floor is that of the blocks: their products and their attention, or their weights.
"""

import copy
from dataclasses import replace
from functools import partial

import torch

from evostreaming.engine.checkpoint import random_model
from evostreaming.engine.pixels import frame_size, grid

from .cases import Case, main, speed_of
from .random_checkpoint import MODELS, published_config

SHAPES = {f"{name}, {frames} frames": (name, frames) for name in MODELS for frames in (1, 8)}


def random_tower(name):
    """(tower on the GPU in bf16, its pixel configuration); the decoder is cut down to one small layer."""
    config = published_config(name)
    small = replace(config.decoder, layers=1, vocab=64, intermediate=64)
    return random_model(replace(config, decoder=small), "cuda", torch.bfloat16).tower, config.pixels


def work_of(tower, grids):
    """Bytes and FLOPs of the blocks."""
    config, patches = tower.config, [gh * gw for gh, gw in grids]
    weights = sum(weight.numel() for weight in tower.blocks.parameters() if weight.dim() == 2)
    flops = 2 * sum(patches) * weights
    for index in range(config.layers):
        windows = config.window and index not in config.full_attention
        flops += sum(4 * config.hidden * count * (config.window**2 if windows else count) for count in patches)
    return {"size": 2 * weights, "flops": flops}


def refcheck(tower, rows, grids):
    """Norm-relative error of the tokens to those of the same weights in float32; raises AssertionError above what 24 to 32 layers of bf16
    rounding make."""
    wide = copy.deepcopy(tower).float()
    wide._plans.clear()
    truth = wide(rows.float(), grids).tokens
    error = ((tower(rows, grids).tokens.float() - truth).norm() / truth.norm()).item()
    print(f"error to float32: {error:.4f}")
    assert error < 3e-2, error


def cases(name, frames):
    tower, pixels = random_tower(name)
    gh, gw = grid(pixels, *frame_size(pixels, 448, 448))
    grids = ((gh, gw),) * frames
    rows = torch.randn(frames * gh * gw, 3 * pixels.patch**2, device="cuda", dtype=torch.bfloat16)
    check = partial(refcheck, tower, rows, grids) if frames == 1 else None
    yield Case(f"{name}, {frames} x {gh} x {gw} patches", "ours", [partial(tower, rows, grids)], check=check, **work_of(tower, grids))


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
