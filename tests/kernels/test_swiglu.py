"""The gated activation."""

import pytest
import torch

from evostreaming.kernels import swiglu as op


def test_the_twin_equals_the_formula_in_float64(error):
    torch.manual_seed(0)
    x = torch.randn(5, 60)
    gate, up = x.double().chunk(2, -1)
    assert error(op.swiglu(x), gate / (1 + (-gate).exp()) * up) < 1e-6


@pytest.mark.parametrize("width", [40, 1024, 1500])
def test_kernel_equals_the_truth(error, target, width):
    x = (4 * torch.randn(3, 2 * width)).to(target.dtype).to(target.device)
    assert error(op.launch_swiglu(x), op.reference_swiglu(x.double())) < target.tolerance


def test_large_gates_saturate(target):
    x = torch.tensor([[-300.0, 300.0, 1.0, 2.0]]).to(target.dtype).to(target.device)
    assert op.launch_swiglu(x).tolist() == [[0.0, 600.0]]


def test_an_odd_number_of_columns_is_refused():
    with pytest.raises(AssertionError, match="side by side"):
        op.swiglu(torch.zeros(2, 5))


@pytest.mark.gpu
def test_the_public_op_runs_triton_on_a_gpu(error, monkeypatch):
    x = torch.randn(272, 2 * 18944, device="cuda", dtype=torch.bfloat16)
    expected = op.reference_swiglu(x)
    monkeypatch.setattr(op, "reference_swiglu", None)
    assert error(op.swiglu(x), expected) < 4e-3


def test_compiles_for_hopper(compile_for_hopper):
    signature = dict(gate_up="*bf16", out="*bf16", width="i32")
    for more in ({}, dict(token_scales="*fp32", column_scales="*bf16")):
        build = compile_for_hopper(op._swiglu_kernel, signature | more, dict(BLOCK=op.BLOCK), 4)
        assert build.stack == 0, "registers spill"
