"""A product of rows that are normalized in front of it, for the few tokens of a reply in one launch.

    sum = x + residual                       (rounded)
    out = RMSNorm(sum) · weight^T            (with a weight in fp8 times a scale a row of it)
    out = silu(out's first half) * its second half      (where it is gated)

Shapes: x, residual, sum (T, K); gain (K,); weight (N, K); scales (N,) float32; out (T, N), gated (T, N / 2). Layout: rows contiguous.
Floor: that of `gemm`, N·K·size bytes of the weight. csrc/gemv_norm.cuh rounds once between sum and product, before it divides by the norm;
`norm` rounds behind it. A gated product is not rounded before it is gated.
"""

import torch

from . import native
from .gemm import few, gemm
from .norm import norm
from .swiglu import swiglu

NUMBERS = 20_480  # of all rows together, padded: a block holds them in shared memory
PAD = 32  # numbers behind each row


def reference_norm_gemm(x, residual, gain, eps, weight, scales=None, gated=False):
    """Plain twin: norm, then gemm, then perhaps swiglu."""
    rows, total = norm(x, gain, eps, residual)
    out = gemm(rows, weight, scales)
    return swiglu(out) if gated else out, total


def fuses(x, residual, weight):
    """Whether csrc/gemv_norm.cuh takes this product: few rows in bfloat16, each to be added to one of a residual."""
    if not isinstance(x, torch.Tensor) or residual is None or x.dtype != torch.bfloat16 or not few(x, weight):
        return False
    aligned = torch.compiler.is_compiling() or residual.storage_offset() % 8 == 0
    return aligned and residual.is_contiguous() and len(x) * (x.shape[1] + PAD) <= NUMBERS


def norm_gemm(x, residual, gain, eps, weight, scales=None, gated=False):
    """(RMSNorm(x + residual) · weight^T (T, N), gated (T, N / 2); x + residual (T, K)) of operands that `fuses` takes; others go to the
    twin."""
    assert x.shape == residual.shape and gain.shape == x.shape[1:], "x, residual and gain have one width"
    if not fuses(x, residual, weight):
        return reference_norm_gemm(x, residual, gain, eps, weight, scales, gated)
    return torch.ops.evostreaming.gemv_norm(x, residual, gain, eps, weight, scales, gated)


def implementation(device_type):
    """What computes this op for few tokens on a device of that type; `norm` and `gemm` compute the rest."""
    return native.language(device_type) if device_type == "cuda" else "pytorch"


if "cuda" in native.LANGUAGE:

    @torch.library.register_fake("evostreaming::gemv_norm")
    def fake_gemv_norm(x, residual, gain, eps, weight, scales, gated):
        return x.new_empty(x.shape[0], weight.shape[0] // (1 + gated)), x.new_empty(x.shape)
