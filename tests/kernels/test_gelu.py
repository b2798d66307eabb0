"""The activations of the towers."""

import math

import pytest
import torch

from evostreaming.kernels import gelu as op

FORMULAS = {
    "erf": lambda x: x / 2 * (1 + torch.erf(x / math.sqrt(2))),
    "tanh": lambda x: x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "quick": lambda x: x / (1 + torch.exp(-1.702 * x)),
}


@pytest.mark.parametrize("kind", FORMULAS)
def test_the_twin_equals_the_formula_in_float64(error, kind):
    torch.manual_seed(0)
    x = 4 * torch.randn(5, 60)
    assert error(op.gelu(x, kind), FORMULAS[kind](x.double())) < 1e-6


@pytest.mark.parametrize("kind", FORMULAS)
@pytest.mark.parametrize("width", [40, 136, 1500])
def test_kernel_equals_the_truth(error, target, width, kind):
    x = (4 * torch.randn(3, width)).to(target.dtype).to(target.device)
    assert error(op.launch_gelu(x, kind), FORMULAS[kind](x.double())) < target.tolerance


@pytest.mark.parametrize("kind", FORMULAS)
def test_large_values_saturate(target, kind):
    x = torch.tensor([[-300.0, 300.0, 0.0]]).to(target.dtype).to(target.device)
    assert op.launch_gelu(x, kind).tolist() == [[0.0, 300.0, 0.0]]


def test_an_unknown_kind_is_refused():
    with pytest.raises(AssertionError, match="erf, tanh, quick: got relu"):
        op.gelu(torch.zeros(2, 4), "relu")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_torch_knows_the_op(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    for kind in FORMULAS:
        for quantized in (False, True):
            torch.library.opcheck(op.gelu_op, (torch.randn(3, 40, device=device), kind, quantized))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", FORMULAS)
def test_the_public_op_runs_triton_on_a_gpu(error, monkeypatch, kind):
    x = torch.randn(784, 4304, device="cuda", dtype=torch.bfloat16)
    expected = FORMULAS[kind](x.double())
    monkeypatch.setattr(op, "reference_gelu", None)
    assert error(op.gelu(x, kind), expected) < 4e-3


@pytest.mark.parametrize("kind", FORMULAS)
def test_compiles_for_hopper(compile_for_hopper, kind):
    build = compile_for_hopper(op._gelu_kernel, dict(x="*bf16", out="*bf16", count="i32"), dict(KIND=kind, BLOCK=op.BLOCK), 4)
    assert build.stack == 0, "registers spill"
