"""gated_gemm, the first half of an MLP in one kernel, against PyTorch's product and our `swiglu` behind it, weights cold.

    python -m benchmarks.bench_gated_gemm [--refcheck] [--alone] [--only "272"]

A decoder's layer of Qwen2.5-VL-7B ("7b") and of the 8B models, and one of the tower of Qwen2.5-VL with its padded channels and bias.
"HxT, RxC" is the kernel with H weight rows and T tokens a CTA, in clusters of R along rows and C along tokens, whether `gated_gemm` goes
that way or not. A product draws so much power that the GPU slows down under it: all ways of a shape take turns, seven times, and the
median counts.
"""

import statistics
from functools import partial
from math import ceil

import torch
import torch.nn.functional as F

from evostreaming.kernels.gated_gemm import TILES, Way, gated_gemm, launch_gated_gemm, reference_gated_gemm, takes
from evostreaming.kernels.swiglu import swiglu

from .bench_gemm import COLD, LAYER
from .cases import Case, main, speed_of
from .timing import replay_of, timed

WIDTHS = {"7b": LAYER["gate_up"], "8b": (24576, 4096), "tower": (6912, 1280)}
TOKENS = {"7b": (144, 272, 544, 1088, 2176), "8b": (80, 144, 208, 272, 544, 1088, 2176), "tower": (512, 1024, 2048, 4096, 8192)}
SHAPES = {f"{kind}, {tokens} tokens": (kind, tokens) for kind in WIDTHS for tokens in TOKENS[kind]}
CUTS = ((128, 1, 1), (128, 2, 1), (128, 1, 2), (192, 1, 1), (192, 1, 2), (192, 2, 1))  # height, rows, columns
PROCESSORS = 132  # of an H200
ROUNDS = 7


def tile_for(tokens, width, height, rows, columns):
    """The tile that keeps the multiprocessors busy for the shortest time, the largest such. Three warpgroups have registers for 160."""

    def cost(tile):
        clusters = ceil(width / (rows * height)) * ceil(tokens / (columns * tile))
        return ceil(clusters / (PROCESSORS // (rows * columns))) * tile, -tile

    return min((tile for tile in TILES if height == 128 or tile <= 160), key=cost)


def apart(x, weight, bias):
    return swiglu(F.linear(x, weight, bias))


def by_kernel(way, x, weight, bias):
    return launch_gated_gemm(x, weight, way, bias)


def refcheck(op, x, weight, bias):
    """Norm-relative error to float32; raises AssertionError above bf16 rounding."""
    truth = reference_gated_gemm(x.float(), weight.float(), None if bias is None else bias.float())
    error = ((op(x, weight, bias).float() - truth).norm() / truth.norm()).item()
    assert error < 5e-3, error


def taking_turns(calls):
    """{name: median µs of one of its calls}."""
    replays = {name: replay_of(each) for name, each in calls.items()}
    rounds = [{name: timed(*each) for name, each in replays.items()} for _ in range(ROUNDS)]
    return {name: statistics.median(each[name] for each in rounds) for name in calls}


def cases(kind, tokens):
    width, depth = WIDTHS[kind]
    x = torch.randn(tokens, depth, device="cuda").bfloat16()
    weights = [torch.randn(width, depth, device="cuda").bfloat16() * depth**-0.5 for _ in range(max(2, -(-COLD // (2 * width * depth))))]
    bias = torch.randn(width, device="cuda").bfloat16() if kind == "tower" else None
    ops = {"ours": gated_gemm, "torch and swiglu": apart}
    if takes(x, weights[0]):
        ways = [Way(tile_for(tokens, width, *cut), *cut) for cut in CUTS]
        ops |= {f"{way.height}x{way.tile}, {way.rows}x{way.columns}": partial(by_kernel, way) for way in ways}
    times = taking_turns({name: [partial(op, x, weight, bias) for weight in weights] for name, op in ops.items()})
    work = {"size": 2 * (width + tokens) * depth + tokens * width, "flops": 2 * tokens * width * depth}
    for name, op in ops.items():
        yield Case(f"{kind}, {tokens} tokens", name, time=times[name], check=partial(refcheck, op, x, weights[0], bias), **work)


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
