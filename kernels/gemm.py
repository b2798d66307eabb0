"""Products of the layers of decoder and tower, x · weight^T.

    gemm:         out = x · weight^T, and for a weight in fp8 (x · weight_fp8^T) * column scale
    scaled_gemm:  out = (x_fp8 · weight_fp8^T) * token scale * column scale + bias       (one rounding, at the end)
    bare_gemm:    the same as a `Product`, of which the op behind computes all but x_fp8 · weight_fp8^T

Shapes: x (T, K); weight (N, K); scales (T,) and (N,) float32; bias (N,); out (T, N). Layout: rows contiguous.
Floor: N·K·size bytes of weights, 2·T·N·K FLOPs; on an H200 in bf16 the two meet at about T = 190.

PyTorch's call (cuBLAS) does them all but one kind: up to 8 tokens, which read the weight once and do little else (csrc/gemv.cuh and
csrc/gemv_fp8.cuh; `quantizes` is False for them, since bytes of x count for nothing there and its rounding is saved). Which way a product
takes depends on its shape alone.

fp8 sums are cuBLAS's fast ones, which the tensor cores keep in 14 bits: off by less than 0.5 % at K = 18944, where rounding x and weight to
fp8 costs 3.7 %. Longer sums would take 9 % more time for a layer at 2176 tokens, and 18 % more at 272.
"""

from functools import cache

import torch
import torch.nn.functional as F

from . import native
from .product import Product
from .quantize import FP8, LARGEST

FEW = 8  # tokens that one read of the weight serves in csrc/gemv.cuh and csrc/gemv_fp8.cuh
BARE = 1536  # tokens up to which cuBLAS is faster in fp8 if it need not scale rows and columns
ROWS = 2048  # of a weight that are quantized at once, through float32
SMALLEST = 1 << 22  # elements of a weight from which its bytes are what a product waits for


def reference_gemm(x, weight, weight_scales=None):
    """Plain twin of `gemm`; float32 for a weight in fp8."""
    if weight_scales is None:
        return F.linear(x, weight)
    return (F.linear(x.float(), weight.float()) * weight_scales).to(x.dtype)


def reference_scaled_gemm(x, x_scales, weight, weight_scales, dtype=torch.bfloat16, bias=None):
    """Plain twin of `scaled_gemm`, in float32."""
    out = F.linear(x.float(), weight.float()) * x_scales[:, None] * weight_scales
    return (out if bias is None else out + bias.float()).to(dtype)


def quantizes(tokens, device):
    """Whether so many rows go in fp8 into their products with weights in fp8."""
    return tokens > FEW or (device.type == "cuda" and "cuda" not in native.LANGUAGE)


def few(x, weight):
    """Whether csrc/gemv.cuh, or csrc/gemv_fp8.cuh, takes this product."""
    if not 0 < len(x) <= FEW or not len(weight) or not readable(x, weight):
        return False
    fp8 = x.dtype == torch.bfloat16 and weight.dtype == FP8 and x.shape[1] % 16 == 0
    half = x.dtype == weight.dtype and x.dtype in (torch.bfloat16, torch.float16) and x.shape[1] % 32 == 0 and weight.numel() >= SMALLEST
    return fp8 or half


def readable(x, weight):
    """Whether a CUDA op of ours may read both: it was built, no gradient is wanted, rows stand one after another, and x, two bytes a
    number, begins at a multiple of 16 of them."""
    if "cuda" not in native.LANGUAGE or not x.is_cuda or not x.is_contiguous() or not weight.is_contiguous():
        return False
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return False
    # A compiler cannot tell where a tensor begins, and what it makes begins at multiples of 16 bytes; the op refuses any other.
    return torch.compiler.is_compiling() or x.storage_offset() % 8 == 0


def gemm(x, weight, weight_scales=None):
    """x (T, K) · weight (N, K)^T: (T, N) in the dtype of x. A weight in that dtype too, or in fp8 with scales (N,) float32."""
    assert x.dim() == weight.dim() == 2 and x.shape[1] == weight.shape[1], f"{tuple(x.shape)} against a weight of {tuple(weight.shape)}"
    assert (weight_scales is None) == (weight.dtype != FP8), f"a weight in {weight.dtype} has {'no ' if weight.dtype != FP8 else ''}scales"
    if not few(x, weight):
        return reference_gemm(x, weight, weight_scales)
    return torch.ops.evostreaming.gemv(x, weight) if weight_scales is None else torch.ops.evostreaming.gemv_fp8(x, weight, weight_scales)


if "cuda" in native.LANGUAGE:

    @torch.library.register_fake("evostreaming::gemv")
    def fake_gemv(x, weight):
        return x.new_empty(x.shape[0], weight.shape[0])

    @torch.library.register_fake("evostreaming::gemv_fp8")
    def fake_gemv_fp8(x, weight, scales):
        return x.new_empty(x.shape[0], weight.shape[0])


def scaled_gemm(x, x_scales, weight, weight_scales, dtype=torch.bfloat16, bias=None):
    """fp8 (float8_e4m3fn) x (T, K) · weight (N, K)^T, times scales (T,) and (N,), plus a bias (N,) in `dtype`, the dtype of the result
    (T, N); on CUDA that is bfloat16."""
    check_fp8(x, x_scales, weight, weight_scales, dtype, bias)
    if x.device.type != "cuda" or not len(x):
        return reference_scaled_gemm(x, x_scales, weight, weight_scales, dtype, bias)
    return torch.ops.evostreaming.scaled_gemm(x, x_scales, weight, weight_scales, bias)


def bare_gemm(x, x_scales, weight, weight_scales, dtype=torch.bfloat16, bias=None, short_scales=None):
    """What `scaled_gemm` computes, (T, N), as a `Product` where that is faster: for the tokens of a few frames. short_scales: the weight's
    scales in fewer bytes, for whoever finishes the product."""
    if len(x) > BARE:
        return scaled_gemm(x, x_scales, weight, weight_scales, dtype, bias)
    check_fp8(x, x_scales, weight, weight_scales, dtype, bias)
    if x.device.type != "cuda" or not len(x):
        values = F.linear(x.float(), weight.float()).to(dtype)
    else:
        values = torch.ops.evostreaming.scaled_gemm(x, None, weight, None, None)
    return Product(values, x_scales, weight_scales if short_scales is None else short_scales, bias)


@torch.no_grad()
def quantize_weight(weight):
    """A weight (N, K), of any float type, for products in fp8: values (N, K) and scales (N,), in float32 and in bfloat16, which holds them
    exactly: an op that finishes a product reads a scale for every number."""
    one(weight.device)
    short = ((weight.amax(1).float().maximum(-weight.amin(1).float())).clamp_min(1e-12) / LARGEST).bfloat16()
    values = torch.empty_like(weight, dtype=FP8)
    for rows, scales, out in zip(weight.split(ROWS), short.split(ROWS), values.split(ROWS)):
        out.copy_(rows.float() / scales.float()[:, None])
    return values, short.float(), short


def check_fp8(x, x_scales, weight, weight_scales, dtype, bias):
    assert x.shape[1] == weight.shape[1] and x_scales.shape == x.shape[:1] and weight_scales.shape == weight.shape[:1]
    assert bias is None or (bias.shape == weight.shape[:1] and bias.dtype == dtype), "the bias has a number a column, in the result's dtype"
    if x.is_cuda:
        assert dtype == torch.bfloat16, f"fp8 products come out in bfloat16, not {dtype}"
        assert x.shape[1] % 16 == weight.shape[0] % 16 == 0, f"both sides of an fp8 weight are multiples of 16: {tuple(weight.shape)}"


@torch.library.custom_op("evostreaming::scaled_gemm", mutates_args=())
def scaled_gemm_op(
    x: torch.Tensor, x_scales: torch.Tensor | None, weight: torch.Tensor, weight_scales: torch.Tensor | None, bias: torch.Tensor | None
) -> torch.Tensor:
    """`scaled_gemm` as an op of PyTorch; without scales those are 1."""
    if x.is_cuda:
        return by_torch(x, x_scales, weight, weight_scales, bias)
    ones = x.new_ones(1, dtype=torch.float32)
    scales = (ones, ones) if x_scales is None else (x_scales, weight_scales)
    return reference_scaled_gemm(x, scales[0], weight, scales[1], bias=bias)


@scaled_gemm_op.register_fake
def _(x, x_scales, weight, weight_scales, bias):
    return x.new_empty(x.shape[0], weight.shape[0], dtype=torch.bfloat16)


@cache
def one(device):
    """The scale 1 on that device. `quantize_weight` asks for it, so that it is there before a graph is captured."""
    return torch.ones((), dtype=torch.float32, device=device)


def by_torch(x, x_scales, weight, weight_scales, bias=None):
    """PyTorch's own fp8 product, on CUDA; with scales of rows and columns, or with none."""
    scales = (one(x.device), one(x.device)) if x_scales is None else (x_scales[:, None], weight_scales[None])
    return torch._scaled_mm(x, weight.t(), *scales, bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True)


def implementation(device_type):
    """What computes `gemm` for few tokens on a device of that type; PyTorch computes the rest."""
    return native.language(device_type) if device_type == "cuda" else "pytorch"
