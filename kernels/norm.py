"""Residual add and RMSNorm in one pass.

    x <- x + residual                        (when a residual is given; rounded to x's dtype, as the reference does)
    y  = x / sqrt(mean(x^2) + eps) * weight   (float32, one rounding at the end)

Shapes: x, residual, y (T, h); weight (h,). Layout: rows contiguous.
Floor: reads x, residual and writes both results, 4·T·h·size bytes; about 4·T·h FLOPs, so it is bound by bytes.
"""

import torch

from .optional_triton import jit, tl, triton
from .optional_triton import triton_or_twin as implementation


def reference_norm(x, weight, eps, residual=None):
    """Plain twin: returns (y, x + residual), both (T, h) in the dtype of `x`."""
    if residual is not None:
        x = x + residual
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight.float()).to(x.dtype), x


@jit
def _norm_kernel(x, residual, weight, y, total, stride, width, eps, HAS_RESIDUAL: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    wide = tl.load(x + row * stride + columns, inside, 0.0).to(tl.float32)
    if HAS_RESIDUAL:
        wide += tl.load(residual + row * width + columns, inside, 0.0).to(tl.float32)
        rounded = wide.to(total.dtype.element_ty)
        tl.store(total + row * width + columns, rounded, inside)
        wide = rounded.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, 0) / width + eps)
    result = wide * scale * tl.load(weight + columns, inside, 0.0).to(tl.float32)
    tl.store(y + row * width + columns, result.to(y.dtype.element_ty), inside)


def launch_norm(x, weight, eps, residual=None):
    """The Triton kernel, one program a row."""
    rows, width = x.shape
    y = torch.empty((rows, width), dtype=x.dtype, device=x.device)
    total = x if residual is None else torch.empty_like(y)
    block = triton.next_power_of_2(width)
    _norm_kernel[(rows,)](
        x, x if residual is None else residual, weight, y, total, x.stride(0), width, eps,
        HAS_RESIDUAL=residual is not None, BLOCK=block, num_warps=min(8, max(1, block // 512)),
    )
    return y, total


def norm(x, weight, eps, residual=None):
    """RMSNorm of `x` (+ `residual`): (T, h) -> (normalized, sum), both (T, h) in the dtype of `x`."""
    assert x.dim() == 2 and x.shape[-1] == weight.shape[0], f"rows {tuple(x.shape)} against a weight of {weight.shape[0]}"
    assert residual is None or (residual.shape == x.shape and residual.is_contiguous()), "the residual has the shape of x, rows contiguous"
    if x.shape[0] == 0 or implementation(x.device.type) == "pytorch":
        return reference_norm(x, weight, eps, residual)
    assert x.stride(1) == 1, "rows of x are contiguous"
    return launch_norm(x, weight, eps, residual)
