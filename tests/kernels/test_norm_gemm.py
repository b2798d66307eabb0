"""Norm and product in one launch: the twin, what goes that way, and on a GPU the kernel against it."""

import pytest
import torch

from evostreaming.kernels import norm_gemm as op
from evostreaming.kernels import quantize
from evostreaming.kernels.norm import reference_norm

SHAPES = {"qkv": (4608, 3584), "gate_up": (37888, 3584), "qwen3": (6144, 4096), "ragged": (4102, 1072)}
EITHER = pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])


def operands(tokens, shape, fp8, device="cuda", dtype=torch.bfloat16):
    """x, residual of which some numbers are large, gain, eps, weight and its scales."""
    torch.manual_seed(tokens)
    draw = lambda *size: torch.randn(*size, device=device).to(dtype)  # noqa: E731
    x, residual, gain, weight = draw(tokens, shape[1]), 3 * draw(tokens, shape[1]), draw(shape[1]), draw(*shape)
    residual[:, 7] = 30
    return (x, residual, gain, 1e-6, *(quantize.quantize(weight) if fp8 else (weight, None)))


def truth(x, residual, gain, eps, weight, scales, gated=False):
    total = (x.double() + residual.double()).to(x.dtype).double()
    rows = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + eps) * gain.double()
    out = rows @ (weight.double() * (1 if scales is None else scales[:, None].double())).t()
    gate, up = out.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up if gated else out


@EITHER
@pytest.mark.parametrize("fp8", [False, True], ids=["float", "fp8"])
def test_the_twin_is_a_norm_and_a_product(error, fp8, gated):
    given = operands(3, (48, 64), fp8, "cpu", torch.float32)
    out, total = op.norm_gemm(*given, gated)
    assert error(out, truth(*given, gated)) < 2e-6
    assert torch.equal(total, given[0] + given[1])


def test_on_a_cpu_and_without_a_residual_norm_and_product_stay_apart():
    x, residual, _, _, weight, _ = operands(1, (4608, 3584), False, "cpu")
    assert not op.fuses(x, residual, weight) and not op.fuses(x, None, weight)


@pytest.mark.gpu
@EITHER
@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_kernel_equals_the_truth_bit_by_bit_the_same_beside_other_tokens(error, name, fp8, gated):
    if name == "ragged" and not fp8:
        pytest.skip("rows of bf16 are read 32 numbers at a time by the plain product, so this one goes to PyTorch")
    for tokens in (1, 2, 3, 4):
        given = operands(tokens, SHAPES[name], fp8)
        assert op.fuses(given[0], given[1], given[4])
        out, total = op.norm_gemm(*given, gated)
        assert error(out, truth(*given, gated)) < 6e-3
        assert torch.equal(total, reference_norm(given[0], given[2], 1e-6, given[1])[1])
        assert torch.equal(out, op.norm_gemm(*given, gated)[0]), "the same bits every time"
        for token in range(tokens):
            alone = op.norm_gemm(given[0][token : token + 1], given[1][token : token + 1], *given[2:], gated)
            assert torch.equal(alone[0], out[token : token + 1]) and torch.equal(alone[1], total[token : token + 1])


@pytest.mark.gpu
def test_more_numbers_than_a_block_holds_and_other_dtypes_go_the_other_way(error):
    for tokens, dtype in ((8, torch.bfloat16), (9, torch.bfloat16), (1, torch.float16)):
        given = operands(tokens, SHAPES["qkv"], False, dtype=dtype)
        assert not op.fuses(given[0], given[1], given[4])
        assert error(op.norm_gemm(*given)[0], truth(*given)) < 8e-3


@pytest.mark.gpu
def test_nan_in_one_token_stays_there():
    given = operands(3, SHAPES["qkv"], False)
    given[1][1, 5] = torch.nan
    out, _ = op.norm_gemm(*given)
    assert out[1].isnan().all() and out[[0, 2]].isfinite().all()


@pytest.mark.gpu
@EITHER
@pytest.mark.parametrize("fp8", [False, True], ids=["bf16", "fp8"])
def test_in_a_graph_and_under_the_compiler(fp8, gated):
    given = (*operands(1, SHAPES["qkv"], fp8), gated)
    first = op.norm_gemm(*given)
    torch.library.opcheck(torch.ops.evostreaming.gemv_norm.default, given, test_utils="test_faketensor")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = op.norm_gemm(*given)
    graph.replay()
    assert all(map(torch.equal, first, again))
    torch.compiler.reset()
    assert all(map(torch.equal, torch.compile(op.norm_gemm, backend="aot_eager", fullgraph=True)(*given), first))


@pytest.mark.gpu
def test_what_does_not_fit_is_refused():
    x, residual, gain, eps, weight, scales = operands(1, SHAPES["qkv"], False)
    call = torch.ops.evostreaming.gemv_norm
    with pytest.raises(RuntimeError, match="20,480 numbers"):
        call(x.expand(8, -1).contiguous(), residual.expand(8, -1).contiguous(), gain, eps, weight, scales, False)
    with pytest.raises(RuntimeError, match="residual has another dtype"):
        call(x, residual.float(), gain, eps, weight, scales, False)
    with pytest.raises(RuntimeError, match="weight has another dtype"):
        call(x, residual, gain, eps, weight, torch.ones(4608, device="cuda"), False)
    with pytest.raises(RuntimeError, match="two halves"):
        call(x, residual, gain, eps, weight[:-1], scales, True)
