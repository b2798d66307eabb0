"""x (T, K) · weight (N, K)^T in bf16 on Hopper, for the tokens of video frames (csrc/gemm_hopper.cuh).

cuBLAS pads 272 tokens to 320 or 384. Here rows of the weight take the tensor core's side of 64 and tokens the other, which goes by eights:
272 tokens are 272. `Way` says how a product is cut; `MEASURED` which shapes are faster so than in cuBLAS, and `way_of` picks for `gemm`.

Floor: N·K·2 bytes of weights, 2·T·N·K FLOPs.
"""

from functools import cache
from typing import NamedTuple

import torch

from . import native

TILES = (72, 80, 96, 112, 128, 136, 144, 160, 192, 224, 256, 272, 288, 320)  # tokens of a CTA; csrc/gemm_hopper_launch.cuh has them
WORKSPACE = 4096 + 2 * 132 * 128 * 320  # 32-bit words: counters, then two parts of the largest tile for every multiprocessor of an H200


class Way(NamedTuple):
    """tile: tokens of a CTA, one of `TILES`. rows, columns: CTAs of a cluster (1, 2 or 4 each way) that share tokens, and weight rows; each
    loads a part of what they share for all. stages: blocks under way, 0 for as many as fit. split: cut tiles so that all end at once."""

    tile: int
    rows: int = 2
    columns: int = 1
    stages: int = 0
    split: bool = True


# (N, K) -> ((fewest tokens, most tokens, rows, columns, split), ...): where a way was measured to beat cuBLAS. None is yet.
MEASURED = {}


def tile_for(tokens, columns=1):
    """The size of tile that pads least, the largest such."""
    return min(TILES, key=lambda tile: (-(-tokens // (tile * columns)) * tile * columns, -tile))


def way_of(tokens, width, depth):
    """How a product of that shape is computed here, or None where cuBLAS is."""
    for fewest, most, rows, columns, split in MEASURED.get((width, depth), ()):
        if fewest <= tokens <= most:
            return Way(tile_for(tokens, columns), rows, columns, split=split)
    return None


def takes(x, weight):
    """Whether `hopper_gemm` can compute the product: bf16 on Hopper, rows of 16-byte words, no gradient wanted."""
    if "cuda" not in native.LANGUAGE or not x.is_cuda or torch.cuda.get_device_capability(x.device)[0] != 9:
        return False
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return False
    if x.dtype != torch.bfloat16 or weight.dtype != torch.bfloat16 or not x.is_contiguous() or not weight.is_contiguous():
        return False
    if not len(x) or x.shape[1] % 8 or len(weight) % 8:
        return False
    # A compiler cannot tell where a tensor begins, and what it makes begins at multiples of 16 bytes.
    return torch.compiler.is_compiling() or x.storage_offset() % 8 == weight.storage_offset() % 8 == 0


@torch.compiler.assume_constant_result
def workspace(device):
    """Where parts of a tile meet; its counters are zeros before and after each call. One a device, where products follow each other: a
    second stream at work beside it needs its own."""
    return _zeros(device)


@cache
def _zeros(device):
    assert not torch.cuda.is_current_stream_capturing(), "run it once before a capture: its zeros would only be there in a replay"
    return torch.zeros(WORKSPACE, dtype=torch.int32, device=device)


def hopper_gemm(x, weight, way, gated=False, space=None):
    """x (T, K) · weight (N, K)^T: (T, N) bf16; the same bits every time. gated: `swiglu` of it, (T, N / 2), for a weight that `interleaved`
    gave. Raises RuntimeError for operands that it does not take."""
    space = workspace(x.device) if space is None else space
    return torch.ops.evostreaming.gemm_hopper(x, weight, space, way.tile, way.rows, way.columns, way.stages, way.split, gated)


def interleaved(gate_up):
    """A weight (2·I, K), gates first, with 8 rows of gates, the 8 of what they gate, the next 8 gates ...: so one thread has both. I is a
    multiple of 8."""
    gates, ups = (half.unflatten(0, (-1, 8)) for half in gate_up.chunk(2))
    return torch.stack((gates, ups), 1).flatten(0, 2)


if "cuda" in native.LANGUAGE:

    @torch.library.register_fake("evostreaming::gemm_hopper")
    def fake_gemm_hopper(x, weight, workspace, tile, rows, columns, stages, split, gated):
        return x.new_empty(x.shape[0], weight.shape[0] // 2 if gated else weight.shape[0])
