"""Rows to fp8, alone and inside norm, swiglu and gelu."""

import pytest
import torch

from evostreaming.kernels import gelu, norm, swiglu
from evostreaming.kernels import quantize as op
from evostreaming.kernels.product import Product

ROUNDING = 2**-4  # half a step of a number with three bits behind the point


def widened(out):
    return out.values.float() * out.scales[:, None]


def rows_with_outliers(rows, width):
    """Rows of very different size, one of zeros, and one value that stands out."""
    x = torch.randn(rows, width) * torch.logspace(-4, 3, rows)[:, None]
    x[0], x[1, 3] = 0, 2e3
    return x


@pytest.mark.parametrize("shape", [(4, 64), (3, 300), (2, 1000)], ids=str)
def test_every_value_is_within_half_a_step_and_the_largest_is_exact(shape):
    torch.manual_seed(0)
    x = rows_with_outliers(*shape)
    out = op.quantize(x)
    assert out.values.dtype == torch.float8_e4m3fn and out.scales.shape == shape[:1]
    normal = x.abs() > 2**-6 * out.scales[:, None]
    assert ((widened(out) - x).abs() <= ROUNDING * x.abs())[normal].all()
    assert torch.allclose(widened(out).abs().amax(1), x.abs().amax(1), rtol=1e-6)
    assert not widened(out)[0].any() and out.scales[0] > 0


def test_nan_and_inf_do_not_become_numbers():
    x = torch.ones(2, 16)
    x[0, 3], x[1, 5] = torch.nan, torch.inf
    assert widened(op.quantize(x)).isnan().any(1).all()


def same(out, expected):
    """Equal but for ties, which a float32 sum in another order may turn round."""
    assert torch.allclose(out.scales, expected.scales, rtol=1e-5)
    ours, theirs = out.values.float(), expected.values.float()
    if ours.device.type == "cpu":  # Triton's interpreter loses the carry of 1.96 that becomes 2.0
        carried = torch.frexp(theirs).mantissa.abs() == 0.5
        ours = torch.where(carried, theirs, ours)
    assert torch.allclose(ours, theirs, rtol=2 * ROUNDING + 1e-3, atol=2**-8)
    assert ((ours != theirs) & (theirs.abs() >= 2**-6)).float().mean() < 0.01


@pytest.mark.parametrize("shape", [(4, 64), (3, 300), (2, 1500)], ids=str)
def test_kernel_equals_the_twin(target, shape):
    x = rows_with_outliers(*shape).to(target.dtype).to(target.device)
    same(op.launch_quantize(x), op.reference_quantize(x))


@pytest.mark.parametrize("width", [64, 300, 3584])
def test_norm_quantizes_what_it_would_have_rounded(target, width):
    x, residual = (torch.randn(5, width).to(target.dtype).to(target.device) for _ in range(2))
    weight = torch.rand(width).to(target.dtype).to(target.device)
    y, total = norm.launch_norm(x, weight, 1e-6, residual, True)
    expected, sums = norm.reference_norm(x, weight, 1e-6, residual, True)
    assert torch.equal(total, sums)
    same(y, expected)


@pytest.mark.parametrize("width", [64, 1152])
def test_layer_norm_quantizes_what_it_would_have_rounded(target, width):
    x, residual = (torch.randn(5, width).to(target.dtype).to(target.device) for _ in range(2))
    weight, bias = (torch.randn(width).to(target.dtype).to(target.device) for _ in range(2))
    y, total = norm.launch_norm(x + 3, weight, 1e-5, residual, True, bias)
    expected, sums = norm.reference_layer_norm(x + 3, weight, bias, 1e-5, residual, True)
    assert torch.equal(total, sums)
    same(y, expected)


@pytest.mark.parametrize("kind", gelu.KINDS)
@pytest.mark.parametrize("width", [40, 1500])
def test_gelu_quantizes_what_it_would_have_rounded(target, width, kind):
    x = (4 * torch.randn(3, width)).to(target.dtype).to(target.device)
    same(gelu.launch_gelu(x, kind, True), gelu.reference_gelu(x, kind, True))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("width", [64, 1500])
def test_a_product_is_finished_by_the_op_behind_it(target, width, with_bias):
    """Scales of very different size, and a guard of NaN behind all that is read."""
    draw = lambda *shape: torch.randn(*shape).to(target.dtype).to(target.device)  # noqa: E731
    guarded = lambda x: torch.cat((x, torch.full_like(x[:1], torch.nan)))[:-1]  # noqa: E731
    rows, columns = (guarded(torch.rand(size, device=target.device).exp2()) for size in (5, width))
    product = Product(guarded(8 * draw(5, width)), rows, columns.to(target.dtype), guarded(draw(width)) if with_bias else None)
    weight, residual = draw(width), draw(5, width)
    for bias in (None, draw(width)):
        twin = (lambda x: norm.reference_norm(x, weight, 1e-6, residual, True)) if bias is None else (
            lambda x, bias=bias: norm.reference_layer_norm(x, weight, bias, 1e-6, residual, True))  # fmt: skip
        y, total = norm.launch_norm(product, weight, 1e-6, residual, True, bias)
        expected, sums = twin(product)
        # Product and sum may be fused, so the last bit is free.
        assert torch.allclose(total, sums, rtol=1e-5 if total.dtype == torch.float32 else 2**-7, atol=1e-6)
        assert torch.allclose(sums.float(), product.wide() + residual.float(), rtol=2**-7)
        same(y, expected)
    same(swiglu.launch_swiglu(product, True), swiglu.reference_swiglu(product, True))
    same(swiglu.reference_swiglu(product, True), swiglu.reference_swiglu(product.wide(), True))
    gated = swiglu.launch_swiglu(product)
    assert gated.dtype == product.values.dtype
    assert torch.allclose(gated, swiglu.reference_swiglu(product), rtol=1e-5 if gated.dtype == torch.float32 else 2**-7, atol=1e-6)
    same(gelu.launch_gelu(product, "erf", True), gelu.reference_gelu(product, "erf", True))
    same(gelu.reference_gelu(product, "erf", True), gelu.reference_gelu(product.wide(), "erf", True))


@pytest.mark.parametrize("width", [40, 1500, 9000])
def test_swiglu_quantizes_what_it_would_have_rounded(target, width):
    x = (4 * torch.randn(3, 2 * width)).to(target.dtype).to(target.device)
    same(swiglu.launch_swiglu(x, True), swiglu.reference_swiglu(x, True))


def test_a_row_beyond_what_a_program_holds_is_left_to_the_twin():
    assert sum(swiglu.split_row(29568)) <= op.WIDEST  # the widest published MLP
    x = torch.randn(2, 2 * (op.WIDEST + 8), device=device_of_ops())
    same(swiglu.swiglu(x, True), swiglu.reference_swiglu(x, True))


def test_a_row_with_a_nan_stays_one(target):
    """Of the 150 columns of swiglu, the kernel holds 128 and 22 apart."""
    x = torch.ones(4, 300).to(target.dtype).to(target.device)
    x[1, 70], x[3, 140] = torch.nan, torch.nan
    for out in (op.launch_quantize(x), swiglu.launch_swiglu(x, True)):
        assert (widened(out).isnan().any(1) | out.scales.isnan()).tolist() == [False, True, False, True]


def device_of_ops():
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("quantized", [False, True])
def test_the_ops_are_what_compilers_are_told(quantized):
    x, gate_up = torch.randn(3, 64, device=device_of_ops()), torch.randn(3, 128, device=device_of_ops())
    torch.library.opcheck(op.quantize_op, (x,))
    torch.library.opcheck(swiglu.swiglu_op, (gate_up, quantized))
    for residual in (None, x.clone()):
        torch.library.opcheck(norm.norm_op, (x, x[0].clone(), 1e-6, residual, quantized))
    rows, columns = torch.rand(3, device=x.device), torch.rand(128, device=x.device)
    for shift in (None, columns.clone()):
        torch.library.opcheck(swiglu.swiglu_op, (gate_up, quantized, rows, columns, shift))
        torch.library.opcheck(gelu.gelu_op, (gate_up, "quick", quantized, rows, columns, shift))
        shift = None if shift is None else shift[:64].clone()
        torch.library.opcheck(norm.norm_op, (x, x[0].clone(), 1e-6, x.clone(), quantized, None, rows, columns[:64].clone(), shift))


def test_rows_that_are_not_contiguous_are_refused():
    with pytest.raises(AssertionError, match="contiguous"):
        op.quantize(torch.zeros(4, 8).t())


def test_compiles_for_hopper(compile_for_hopper):
    signature = dict(x="*bf16", values="*fp8e4nv", scales="*fp32", stride="i32", width="i32")
    assert compile_for_hopper(op._quantize_kernel, signature, dict(BLOCK=4096), 8).stack == 0, "registers spill"


def test_norm_and_swiglu_compile_for_hopper_with_fp8_output(compile_for_hopper):
    signature = dict(x="*bf16", residual="*bf16", weight="*bf16", bias="*bf16", y="*fp8e4nv", scales="*fp32", total="*bf16")
    signature |= dict(stride="i32", width="i32", eps="fp32")
    constants = dict(HAS_RESIDUAL=True, CENTERED=False, QUANTIZED=True, BLOCK=4096)
    finish = dict(token_scales="*fp32", column_scales="*bf16", shift="*bf16")
    for more in ({}, finish):
        build = compile_for_hopper(norm._norm_kernel, signature | more, constants, 8)
        assert build.stack == 0, "registers spill"
    signature = dict(gate_up="*bf16", values="*fp8e4nv", scales="*fp32", width="i32")
    scaled = dict(token_scales="*fp32", column_scales="*bf16")  # the decoder's have no bias, the towers' are 3456 wide
    wide = [(width, 16, more) for width in (12288, 18944) for more in ({}, scaled)]
    for width, warps, more in [*wide, (29568, 16, {}), (3456, 4, finish)]:
        sizes = dict(zip(("MAIN", "REST"), swiglu.split_row(width))) | ({"shift": None} if more is scaled else {})
        build = compile_for_hopper(swiglu._quantized_kernel, signature | more, sizes, warps, aligned=["width"])
        assert build.stack == 0, "registers spill"
    signature = dict(x="*bf16", values="*fp8e4nv", scales="*fp32", width="i32")
    for kind in gelu.KINDS:
        build = compile_for_hopper(gelu._quantized_kernel, signature | finish, dict(KIND=kind, BLOCK=8192), 16)
        assert build.stack == 0, "registers spill"
