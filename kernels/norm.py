"""Residual add and RMSNorm, or LayerNorm, in one pass.

    x <- x + residual                        (when a residual is given; rounded to x's dtype, as the reference does)
    y  = x / sqrt(mean(x^2) + eps) * weight   (float32, one rounding at the end)
    y  -> fp8 with one scale a row            (when asked for; from float32, as `quantize` does)

LayerNorm takes the mean away from x first, and adds a bias at the end. x may be a `Product`, whose scales cost nothing here.

Shapes: x, residual, y (T, h); weight, bias (h,). Layout: rows contiguous.
Floor: reads x, residual and writes both results, 4·T·h·size bytes; about 4·T·h FLOPs, so it is bound by bytes.
"""

import torch
import torch.nn.functional as F

from .optional_triton import jit, tl, triton
from .optional_triton import triton_or_twin as implementation
from .product import Product, added, load_wide, parts
from .quantize import Quantized, empty_quantized, reference_quantize, store_quantized


def reference_norm(x, weight, eps, residual=None, quantized=False):
    """Plain twin: returns (y, x + residual), both (T, h) in the dtype of `x`; y is `Quantized` if asked for."""
    x = added(x, residual)
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    y = wide * scale * weight.float()
    return reference_quantize(y) if quantized else y.to(x.dtype), x


def reference_layer_norm(x, weight, bias, eps, residual=None, quantized=False):
    """Plain twin: returns (y, x + residual), both (T, h) in the dtype of `x`; y is `Quantized` if asked for."""
    x = added(x, residual)
    if quantized:
        return reference_quantize(F.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), eps)), x
    return F.layer_norm(x, weight.shape, weight, bias, eps), x


@jit
def _norm_kernel(x, residual, weight, bias, y, scales, total, stride, width, eps, token_scales, column_scales, shift,
                 HAS_RESIDUAL: tl.constexpr, CENTERED: tl.constexpr, QUANTIZED: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    wide = load_wide(x + row * stride, token_scales, column_scales, shift, row, columns, inside)
    factor = tl.load(weight + columns, inside, 0.0).to(tl.float32)  # here, so that its way from memory and that of x are one
    if HAS_RESIDUAL:
        wide += tl.load(residual + row * width + columns, inside, 0.0).to(tl.float32)
        rounded = wide.to(total.dtype.element_ty)
        tl.store(total + row * width + columns, rounded, inside)
        wide = rounded.to(tl.float32)
    if CENTERED:
        wide = tl.where(inside, wide - tl.sum(wide, 0) / width, 0.0)
    result = wide * tl.rsqrt(tl.sum(wide * wide, 0) / width + eps) * factor
    if CENTERED:
        result += tl.load(bias + columns, inside, 0.0).to(tl.float32)
    if QUANTIZED:
        store_quantized(result, y + row * width, scales, row, columns, inside)
    else:
        tl.store(y + row * width + columns, result.to(y.dtype.element_ty), inside)


def launch_norm(x, weight, eps, residual=None, quantized=False, bias=None):
    """The Triton kernel, one program a row; a LayerNorm if there is a bias."""
    assert residual is not None or not isinstance(x, Product), "a product is finished on the way to a sum"
    x, *finish = parts(x)
    rows, width = x.shape
    y, scales = empty_quantized(x, width) if quantized else (x.new_empty(rows, width), None)
    total = x if residual is None else x.new_empty(rows, width)
    block = triton.next_power_of_2(width)
    _norm_kernel[(rows,)](
        x, x if residual is None else residual, weight, weight if bias is None else bias, y, scales if quantized else y, total,
        x.stride(0), width, eps, *finish, HAS_RESIDUAL=residual is not None, CENTERED=bias is not None, QUANTIZED=quantized, BLOCK=block,
        num_warps=min(8, max(1, block // 512)),
    )  # fmt: skip
    return Quantized(y, scales) if quantized else y, total


@torch.library.custom_op("evostreaming::norm", mutates_args=())
def norm_op(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None, quantized: bool, bias: torch.Tensor | None = None,
    token_scales: torch.Tensor | None = None, column_scales: torch.Tensor | None = None, shift: torch.Tensor | None = None,
) -> list[torch.Tensor]:  # fmt: skip
    """`norm`, or `layer_norm` with a bias, as an op of PyTorch, so that compilers take it whole: [y], then its scales, then the sum, where
    there are such. The last three are those of a `Product`."""
    product = x if token_scales is None else Product(x, token_scales, column_scales, shift)
    if x.shape[0] and implementation(x.device.type) != "pytorch":
        y, total = launch_norm(product, weight, eps, residual, quantized, bias)
    elif bias is None:
        y, total = reference_norm(product, weight, eps, residual, quantized)
    else:
        y, total = reference_layer_norm(product, weight, bias, eps, residual, quantized)
    return [*(y if quantized else [y]), *([] if residual is None else [total])]


@norm_op.register_fake
def fake_norm(x, weight, eps, residual, quantized, bias=None, token_scales=None, column_scales=None, shift=None):
    y = empty_quantized(x, x.shape[1]) if quantized else [x.new_empty(x.shape)]
    return [*y, *([] if residual is None else [x.new_empty(x.shape)])]


def check_rows(x, weight, residual):
    assert x.dim() == 2 and x.shape[-1] == weight.shape[0], f"rows {tuple(x.shape)} against a weight of {weight.shape[0]}"
    assert residual is None or (residual.shape == x.shape and residual.is_contiguous()), "the residual has the shape of x, rows contiguous"
    assert x.stride(1) == 1, "rows of x are contiguous"


def layer_norm(x, weight, bias, eps, residual=None, quantized=False):
    """LayerNorm of `x` (+ `residual`): (T, h) -> (normalized, sum), both (T, h) in the dtype of `x`; the first `Quantized` if asked for.
    x: a tensor, or a `Product` to be added to a residual."""
    values, *finish = parts(x)
    check_rows(values, weight, residual)
    if implementation(values.device.type) == "pytorch":  # not through the op: the twin has gradients
        return reference_layer_norm(x, weight, bias, eps, residual, quantized)
    out = norm_op(values, weight, eps, residual, quantized, bias, *finish)
    return Quantized(*out[:2]) if quantized else out[0], x if residual is None else out[-1]


def norm(x, weight, eps, residual=None, quantized=False):
    """RMSNorm of `x` (+ `residual`): (T, h) -> (normalized, sum), both (T, h) in the dtype of `x`; the first `Quantized` if asked for.
    x: a tensor, or a `Product` to be added to a residual."""
    values, *finish = parts(x)
    check_rows(values, weight, residual)
    if implementation(values.device.type) == "pytorch":  # not through the op: the twin has gradients
        return reference_norm(x, weight, eps, residual, quantized)
    out = norm_op(values, weight, eps, residual, quantized, None, *finish)
    return Quantized(*out[:2]) if quantized else out[0], x if residual is None else out[-1]
