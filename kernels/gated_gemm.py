"""The first half of an MLP: `swiglu` of x (T, K) · gate_up (2·I, K)^T, out (T, I), where nothing is in fp8.

On Hopper one kernel does both for the shapes in `MEASURED` (csrc/gated_gemm.cuh): it loads eight rows of gates and the eight that they
gate, in turns, so what the activation needs is in one thread's registers, in float32, and (T, 2·I) never goes through memory. Rows of the
weight take the tensor core's side of 64 and tokens the other, which goes by eights: 272 tokens are 272, where cuBLAS pads them.

Floor: 2·I·K·2 bytes of weights, 4·T·I·K FLOPs.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from . import native
from .gemm import gemm, readable
from .swiglu import reference_swiglu, swiglu

TILES = (72, 80, 96, 112, 128, 136, 144, 160, 192, 224, 256, 272, 288, 320)  # tokens of a CTA; csrc/gated_gemm_launch.cuh has them


class Way(NamedTuple):
    """tile, height: tokens and weight rows of a CTA, one of `TILES` and 128, or up to a tile of 160 192. rows, columns: CTAs of a cluster
    (1, 2 or 4 each way) that share tokens, and weight rows; each loads a part of what they share for all."""

    tile: int
    height: int = 128
    rows: int = 1
    columns: int = 1


# (2·I, K) -> {(fewest tokens, most tokens): the way that was measured to beat cuBLAS and `swiglu`}: the decoders of 7B and of 8B, the tower
# of Qwen2.5-VL. Fewer tokens are left to cuBLAS where a tile would be far from full.
MEASURED = {
    (37888, 3584): {
        (129, 144): Way(72, 192, 1, 2),
        (257, 272): Way(136, 192, 1, 2),
        (513, 544): Way(136, 192, 1, 2),
        (1025, 1088): Way(272, 128, 2, 1),
        (2113, 2176): Way(272, 128, 2, 1),
    },
    (24576, 4096): {
        (73, 80): Way(80, 192, 2, 1),
        (129, 144): Way(144, 192),
        (257, 272): Way(136, 192, 1, 2),
        (513, 544): Way(272, 128, 1, 2),
        (1025, 1088): Way(272, 128, 2, 1),
        (2113, 2176): Way(136, 192, 1, 2),
    },
    (6912, 1280): {
        (1985, 2048): Way(96, 192, 1, 2),
        (3969, 4096): Way(144, 192, 2, 1),
        (7937, 8192): Way(144, 192, 1, 2),
    },
}


def way_of(tokens, width, depth):
    """How the kernel computes a shape, or None where cuBLAS and `swiglu` do."""
    for (fewest, most), way in MEASURED.get((width, depth), {}).items():
        if fewest <= tokens <= most:
            return way
    return None


def takes(x, weight):
    """Whether the kernel can compute it: bf16 on Hopper, rows of 16-byte words, no gradient wanted."""
    if x.dtype != torch.bfloat16 or weight.dtype != torch.bfloat16 or not len(x) or x.shape[1] % 8 or len(weight) % 16:
        return False
    if not readable(x, weight) or torch.cuda.get_device_capability(x.device)[0] != 9:
        return False
    return torch.compiler.is_compiling() or weight.storage_offset() % 8 == 0


def launch_gated_gemm(x, weight, way, bias=None):
    """The kernel: the same bits every time. Raises RuntimeError for operands that it does not take."""
    return torch.ops.evostreaming.gated_gemm(x, weight, bias, *way)


def reference_gated_gemm(x, weight, bias=None):
    """Plain twin: (T, K), (2·I, K) with the gates first, (2·I,) -> (T, I) in the dtype of x."""
    return reference_swiglu(F.linear(x, weight, bias))


def gated_gemm(x, weight, bias=None):
    """silu(x · gates^T) * (x · ups^T), both with their bias: (T, K), (2·I, K) with the gates first, (2·I,) -> (T, I) in the dtype of x."""
    way = way_of(len(x), *weight.shape)
    if way is not None and takes(x, weight):
        return launch_gated_gemm(x, weight, way, bias)
    return swiglu(gemm(x, weight) if bias is None else F.linear(x, weight, bias))


def implementation(device_type):
    """What computes the measured sizes on a device of that type; `gemm` and `swiglu` compute the rest."""
    hopper = device_type == "cuda" and torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
    return native.language(device_type) if hopper else "pytorch"


if "cuda" in native.LANGUAGE:

    @torch.library.register_fake("evostreaming::gated_gemm")
    def fake_gated_gemm(x, weight, bias, tile, height, rows, columns):
        return x.new_empty(x.shape[0], weight.shape[0] // 2)
