"""The activations of the towers' two-layer MLPs, in float32 with one rounding.

    erf:   x/2 · (1 + erf(x / sqrt(2)))
    tanh:  x · sigmoid(2·sqrt(2/pi)·(x + 0.044715·x^3))
    quick: x · sigmoid(1.702·x)

Shapes: x, out (T, I), contiguous; x perhaps as a `Product`, out in fp8 with one scale a row when asked for (as `quantize` does). The bias
in front belongs to the product, whose epilogue adds it for nothing.
Floor: 2·T·I·size bytes, about 10·T·I FLOPs, so it is bound by bytes.
"""

import torch
import torch.nn.functional as F

from .optional_triton import jit, tl, triton
from .optional_triton import triton_or_twin as implementation
from .product import Product, dense, load_wide, parts
from .quantize import WIDEST, Quantized, empty_quantized, reference_quantize, store_quantized

BLOCK = 1024
KINDS = {"erf": F.gelu, "tanh": lambda x: F.gelu(x, approximate="tanh"), "quick": lambda x: x * torch.sigmoid(1.702 * x)}


def reference_gelu(x, kind, quantized=False):
    """Plain twin: (T, I) -> (T, I) in the dtype of `x`; `Quantized` if asked for."""
    values = parts(x)[0]
    wide = x.wide() if isinstance(x, Product) else x.float() if x.element_size() < 4 else x
    out = KINDS[kind](wide)
    return reference_quantize(out) if quantized else out.to(values.dtype)


@jit
def _activated(wide, KIND: tl.constexpr):
    if KIND == "erf":
        share = 0.5 + 0.5 * tl.erf(wide * 0.7071067811865476)
    elif KIND == "tanh":
        share = 1.0 / (1.0 + tl.exp(-1.5957691216057308 * wide * (1.0 + 0.044715 * wide * wide)))
    else:
        share = 1.0 / (1.0 + tl.exp(-1.702 * wide))
    return wide * share


@jit
def _gelu_kernel(x, out, count, KIND: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    wide = tl.load(x + place, place < count, 0.0).to(tl.float32)
    tl.store(out + place, _activated(wide, KIND).to(out.dtype.element_ty), place < count)


@jit
def _quantized_kernel(x, values, scales, width, token_scales, column_scales, shift, KIND: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    wide = load_wide(x + row * width, token_scales, column_scales, shift, row, columns, inside)
    store_quantized(_activated(wide, KIND), values + row * width, scales, row, columns, inside)


def launch_gelu(x, kind, quantized=False):
    """The Triton kernels: one program for BLOCK values; for a whole row where its peak has to be known."""
    x, *finish = parts(x if quantized else dense(x))
    if quantized:
        rows, width = x.shape
        out, block = empty_quantized(x, width), triton.next_power_of_2(width)
        warps = min(16, max(1, block // 512))
        _quantized_kernel[(rows,)](x, *out, width, *finish, KIND=kind, BLOCK=block, num_warps=warps)
        return out
    out = torch.empty_like(x)
    _gelu_kernel[(triton.cdiv(x.numel(), BLOCK),)](x, out, x.numel(), KIND=kind, BLOCK=BLOCK, num_warps=4)
    return out


@torch.library.custom_op("evostreaming::gelu", mutates_args=())
def gelu_op(
    x: torch.Tensor, kind: str, quantized: bool = False, token_scales: torch.Tensor | None = None,
    column_scales: torch.Tensor | None = None, shift: torch.Tensor | None = None,
) -> list[torch.Tensor]:  # fmt: skip
    """`gelu` as an op of PyTorch, so that compilers take it whole: [out], then its scales where it has such. The last three are those of a
    `Product`."""
    product = x if token_scales is None else Product(x, token_scales, column_scales, shift)
    if x.numel() == 0 or (quantized and x.shape[1] > WIDEST) or implementation(x.device.type) == "pytorch":
        out = reference_gelu(product, kind, quantized)
    else:
        out = launch_gelu(product, kind, quantized)
    return list(out) if quantized else [out]


@gelu_op.register_fake
def fake_gelu(x, kind, quantized=False, token_scales=None, column_scales=None, shift=None):
    return list(empty_quantized(x, x.shape[1])) if quantized else [torch.empty_like(x)]


def gelu(x, kind="erf", quantized=False):
    """GELU of `x` (T, I), contiguous, a tensor or a `Product`: "erf" (exact), "tanh" or "quick"; (T, I) in the dtype of `x`, or
    `Quantized`. On CUDA without gradients."""
    values, *finish = parts(x)
    assert kind in KINDS, f"a GELU is one of {', '.join(KINDS)}: got {kind}"
    assert values.is_contiguous(), "rows stand one after another"
    if implementation(values.device.type) == "pytorch":  # not through the op: the twin has gradients
        return reference_gelu(x, kind, quantized)
    out = gelu_op(values, kind, quantized, *finish)
    return Quantized(*out) if quantized else out[0]
