"""Residual add and RMSNorm or LayerNorm."""

import pytest
import torch

from evostreaming.kernels import norm as op

WIDTHS = [64, 300, 3584]


def inputs(rows, width, device="cpu", dtype=torch.float32):
    x, residual = (torch.randn(rows, width, dtype=torch.float32).to(dtype).to(device) for _ in range(2))
    return x, residual, torch.rand(width).to(dtype).to(device)


def test_the_twin_equals_the_formula_in_float64(error):
    torch.manual_seed(0)
    x, residual, weight = inputs(5, 300)
    y, total = op.norm(x, weight, 1e-6, residual)
    wide = x.double() + residual.double()
    assert error(total, wide) < 1e-7
    assert error(y, wide / (wide.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight) < 1e-6


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("with_residual", [False, True])
def test_kernel_equals_the_truth(error, target, width, with_residual):
    x, residual, weight = inputs(7, width, target.device, target.dtype)
    residual = residual if with_residual else None
    y, total = op.launch_norm(x, weight, 1e-6, residual)
    expected, sums = op.reference_norm(x, weight, 1e-6, residual)
    assert torch.equal(total, sums), "the sum is rounded as PyTorch rounds it"
    truth, _ = op.reference_norm(sums.double(), weight, 1e-6)
    assert error(y, truth) < max(target.tolerance, 1.1 * error(expected, truth))


def test_rows_may_stand_apart(error, target):
    wide, residual, weight = inputs(5, 128, target.device, target.dtype)
    x = wide[:, :64]
    y, _ = op.launch_norm(x, weight[:64].contiguous(), 1e-6, residual[:, :64].contiguous())
    assert error(y, op.reference_norm(x, weight[:64], 1e-6, residual[:, :64])[0]) < target.tolerance


def test_an_outlier_row_does_not_overflow(target):
    x = torch.full((1, 256), 6e4).to(target.dtype).to(target.device)
    y, _ = op.launch_norm(x, torch.ones(256, dtype=target.dtype, device=target.device), 1e-6)
    assert torch.allclose(y.float(), torch.ones_like(y, dtype=torch.float32), atol=1e-2)


def test_a_residual_of_another_shape_is_refused():
    with pytest.raises(AssertionError, match="shape of x"):
        op.norm(torch.zeros(2, 8), torch.ones(8), 1e-6, torch.zeros(3, 8))


def test_the_layer_norm_of_the_twin_equals_the_formula_in_float64(error):
    torch.manual_seed(0)
    x, residual, weight = inputs(5, 300)
    bias = torch.randn(300)
    y, total = op.layer_norm(x, weight, bias, 1e-5, residual)
    wide = x.double() + residual.double()
    centered = wide - wide.mean(-1, keepdim=True)
    assert error(total, wide) < 1e-7
    assert error(y, centered / (centered.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias) < 1e-6


@pytest.mark.parametrize("width", [72, 300, 1152])
@pytest.mark.parametrize("with_residual", [False, True])
def test_the_kernel_of_the_layer_norm_equals_the_truth(error, target, width, with_residual):
    x, residual, weight = inputs(7, width, target.device, target.dtype)
    x += 3  # a mean far from zero, which the variance must not see
    bias = torch.randn(width).to(target.dtype).to(target.device)
    y, total = op.launch_norm(x, weight, 1e-5, residual if with_residual else None, bias=bias)
    sums = x + residual if with_residual else x
    assert torch.equal(total, sums), "the sum is rounded as PyTorch rounds it"
    assert error(y, op.reference_layer_norm(sums.double(), weight.double(), bias.double(), 1e-5)[0]) < target.tolerance


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_torch_knows_the_layer_norm(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    x, residual, weight = inputs(3, 72, device)
    for delta in (residual, None):
        for quantized in (False, True):
            torch.library.opcheck(op.norm_op, (x, weight, 1e-5, delta, quantized, weight.flip(0)))


@pytest.mark.gpu
def test_the_public_op_runs_triton_on_a_gpu(error, monkeypatch):
    x, residual, weight = inputs(272, 3584, "cuda", torch.bfloat16)
    expected = op.reference_norm(x, weight, 1e-6, residual)
    monkeypatch.setattr(op, "reference_norm", None)
    y, total = op.norm(x, weight, 1e-6, residual)
    assert torch.equal(total, expected[1]) and error(y, expected[0]) < 4e-3


@pytest.mark.parametrize("centered", [False, True])
def test_compiles_for_hopper(compile_for_hopper, centered):
    signature = dict.fromkeys(("x", "residual", "weight", "bias", "y", "scales", "total"), "*bf16")
    signature |= dict(stride="i32", width="i32", eps="fp32")
    constants = dict(HAS_RESIDUAL=True, CENTERED=centered, QUANTIZED=False, BLOCK=4096)
    build = compile_for_hopper(op._norm_kernel, signature, constants, 8)
    assert build.stack == 0, "registers spill"
