"""Products: the twins, what goes which way, and on a GPU the product of few tokens and those in fp8."""

import pytest
import torch

from evostreaming.kernels import gemm as op
from evostreaming.kernels import native, quantize
from evostreaming.kernels.product import Product, added, dense

LAYER = {"qkv": (4608, 3584), "o": (3584, 3584), "gate_up": (37888, 3584), "down": (3584, 18944)}


def test_twins_equal_the_formula_in_float64(error):
    torch.manual_seed(0)
    x, weight = torch.randn(5, 64), torch.randn(48, 64)
    assert error(op.gemm(x, weight), x.double() @ weight.double().t()) < 1e-6
    a, b = quantize.quantize(x), quantize.quantize(weight)
    truth = (a.values.double() * a.scales[:, None]) @ (b.values.double() * b.scales[:, None]).t()
    assert error(op.scaled_gemm(*a, *b, torch.float32), truth) < 1e-6
    bias = torch.randn(48)
    assert error(op.scaled_gemm(*a, *b, torch.float32, bias), truth + bias) < 1e-6
    bare = op.bare_gemm(*a, *b, torch.float32, bias)
    assert isinstance(bare, Product) and error(dense(bare), truth + bias) < 1e-6
    residual = torch.randn(5, 48)
    assert error(added(bare, residual), truth + bias + residual) < 1e-6 and added(residual, None) is residual
    assert error(op.gemm(x, *b), x.double() @ (b.values.double() * b.scales[:, None]).t()) < 1e-6
    assert error(truth, x.double() @ weight.double().t()) < 0.05, "two roundings to fp8"


def test_the_op_is_what_compilers_are_told():
    a, b = quantize.quantize(torch.randn(3, 64)), quantize.quantize(torch.randn(32, 64))
    possible = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")  # the schema's test multiplies its inputs
    for bias in (None, torch.randn(32, dtype=torch.bfloat16)):
        torch.library.opcheck(op.scaled_gemm_op, (*a, *b, bias), test_utils=possible)
    torch.library.opcheck(op.scaled_gemm_op, (a.values, None, b.values, None, None), test_utils=possible)


def test_operands_that_do_not_fit_are_refused():
    with pytest.raises(AssertionError, match="against a weight"):
        op.gemm(torch.zeros(2, 8), torch.zeros(4, 9))
    weight, scales = quantize.quantize(torch.randn(32, 64))
    with pytest.raises(AssertionError, match="float8_e4m3fn has scales"):
        op.gemm(torch.zeros(2, 64), weight)
    with pytest.raises(AssertionError, match="float32 has no scales"):
        op.gemm(torch.zeros(2, 64), weight.float(), scales)
    with pytest.raises(AssertionError, match="the result's dtype"):
        op.scaled_gemm(*quantize.quantize(torch.randn(3, 64)), weight, scales, bias=torch.zeros(32))


def test_a_quantized_weight_is_near_it_row_by_row_however_many_rows(monkeypatch):
    monkeypatch.setattr(op, "ROWS", 3)
    weight = torch.randn(8, 64) * torch.logspace(-9, 12, 8)[:, None]
    weight[1], weight[2, 5] = 0, torch.nan
    values, scales, short = op.quantize_weight(weight)
    assert values.dtype == quantize.FP8 and scales.dtype == torch.float32 and torch.equal(short.float()[3:], scales[3:])
    near = (values.float() * scales[:, None] - weight).norm(dim=1) / weight.norm(dim=1).clamp_min(1e-30)
    assert (near[[0, 1, 3, 4, 5, 6, 7]] < 0.04).all() and near[2].isnan() and not values[1].any()


def test_few_tokens_keep_their_half_precision():
    assert [tokens for tokens in (1, 8, 9, 272) if op.quantizes(tokens, torch.device("cpu"))] == [9, 272]


def test_many_tokens_leave_the_scales_to_the_product():
    (values, scales), weight = quantize.quantize(torch.randn(1, 16)), quantize.quantize(torch.randn(16, 16))
    bare = {tokens: op.bare_gemm(values.expand(tokens, -1), scales.expand(tokens), *weight, torch.float32) for tokens in (272, 2176)}
    assert isinstance(bare[272], Product) and isinstance(bare[2176], torch.Tensor)
    assert torch.allclose(dense(bare[272])[0], bare[2176][0])


def test_a_wanted_gradient_is_given():
    x, weight = torch.randn(3, 64), torch.randn(32, 64, requires_grad=True)
    op.gemm(x, weight).sum().backward()
    assert torch.allclose(weight.grad, x.sum(0).expand(32, 64), atol=1e-5)


def draw(rows, depth, dtype=torch.bfloat16):
    return torch.randn(rows, depth, device="cuda").to(dtype)


def guarded(tokens, depth, dtype=torch.bfloat16):
    """Random rows with a guard of NaN behind them."""
    return torch.cat((draw(tokens, depth, dtype), torch.full((1, depth), torch.nan, device="cuda", dtype=dtype)))[:tokens]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [*LAYER.values(), (4100, 1056), (65536, 64)], ids=str)
def test_few_tokens_read_the_weight_once_and_right(error, shape, dtype):
    torch.manual_seed(0)
    weight = draw(*shape, dtype)
    for tokens in (1, 2, 3, 8):
        x = guarded(tokens, shape[1], dtype)
        assert op.few(x, weight)
        out = op.gemm(x, weight)
        assert error(out, x.float() @ weight.float().t()) < (6e-3 if dtype == torch.bfloat16 else 1e-3)
        assert torch.equal(out, op.gemm(x, weight)), "the same bits every time"
        for token in range(tokens):
            assert torch.equal(out[token : token + 1], op.gemm(x[token : token + 1], weight)), "neighbors change no bit"


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [*LAYER.values(), (4099, 1072), (17, 48), (1, 16)], ids=str)
def test_few_tokens_read_a_weight_in_fp8_once_and_right(error, shape):
    torch.manual_seed(0)
    weight, scales = quantize.quantize(draw(*shape) * torch.rand(shape[0], 1, device="cuda").exp2().bfloat16())
    for tokens in (1, 2, 7, 8):
        x = guarded(tokens, shape[1])
        assert op.few(x, weight)
        out = op.gemm(x, weight, scales)
        assert error(out, x.double() @ (weight.double() * scales[:, None].double()).t()) < 4e-3, "one rounding, at the end"
        assert torch.equal(out, op.gemm(x, weight, scales)), "the same bits every time"
        for token in range(tokens):
            assert torch.equal(out[token : token + 1], op.gemm(x[token : token + 1], weight, scales)), "neighbors change no bit"


@pytest.mark.gpu
def test_every_number_of_fp8_is_multiplied_as_it_is():
    """Each of the 254 finite numbers of e4m3, subnormal ones too, against x of a large range."""
    codes = torch.arange(256, dtype=torch.uint8, device="cuda").view(quantize.FP8)
    codes = torch.where(codes.float().isfinite(), codes.float(), 0.0).to(quantize.FP8)
    weight = torch.diag(codes.float()).to(quantize.FP8)
    for power in (-100, 0, 100):
        x = torch.full((1, 256), 2.0**power, device="cuda", dtype=torch.bfloat16)
        assert torch.equal(op.gemm(x, weight, torch.ones(256, device="cuda"))[0].float(), codes.float() * 2.0**power)


@pytest.mark.gpu
def test_few_tokens_with_a_weight_in_fp8_in_a_graph_and_under_the_compiler():
    x, (weight, scales) = draw(3, 3584), quantize.quantize(draw(4608, 3584))
    first = op.gemm(x, weight, scales)
    torch.library.opcheck(torch.ops.evostreaming.gemv_fp8.default, (x, weight, scales), test_utils="test_faketensor")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = op.gemm(x, weight, scales)
    graph.replay()
    assert torch.equal(first, again)
    torch.compiler.reset()
    assert torch.equal(torch.compile(op.gemm, backend="aot_eager", fullgraph=True)(x, weight, scales), first)


@pytest.mark.gpu
def test_what_few_tokens_do_not_fit_goes_to_pytorch():
    weight = draw(4096, 3584)
    assert op.few(draw(8, 3584), weight)
    assert not op.few(draw(9, 3584), weight) and not op.few(draw(0, 3584), weight)
    assert not op.few(draw(2, 3585)[:, :-1], weight), "rows that are not contiguous"
    assert not op.few(draw(1, 3600)[0, 3:3587][None], weight), "no multiple of 16 bytes"
    assert not op.few(draw(1, 3584), weight.float()) and not op.few(draw(1, 3584), weight[:64])
    assert not op.few(draw(1, 3584), weight.requires_grad_())


@pytest.mark.gpu
def test_few_tokens_in_a_graph_and_under_the_compiler():
    x, weight = draw(1, 3584), draw(4608, 3584)
    first = op.gemm(x, weight)
    torch.library.opcheck(torch.ops.evostreaming.gemv.default, (x, weight))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = op.gemm(x, weight)
    graph.replay()
    assert torch.equal(first, again)
    torch.compiler.reset()
    assert torch.equal(torch.compile(op.gemm, backend="aot_eager", fullgraph=True)(x, weight), first)


@pytest.mark.gpu
def test_what_does_not_fit_the_op_is_refused():
    assert native.language("cuda") == "cuda"
    with pytest.raises(RuntimeError, match="1 to 8 tokens"):
        torch.ops.evostreaming.gemv(draw(9, 64), draw(32, 64))
    with pytest.raises(RuntimeError, match="x has another dtype"):
        torch.ops.evostreaming.gemv(draw(2, 64).float(), draw(32, 64))
    weight, scales = quantize.quantize(draw(32, 64))
    with pytest.raises(RuntimeError, match="a multiple of 16"):
        torch.ops.evostreaming.gemv_fp8(draw(2, 72), draw(32, 72).to(quantize.FP8), scales)
    with pytest.raises(RuntimeError, match="weight has another dtype"):
        torch.ops.evostreaming.gemv_fp8(draw(2, 64), draw(32, 64), scales)
    with pytest.raises(RuntimeError, match="scales has another dtype"):
        torch.ops.evostreaming.gemv_fp8(draw(2, 64), weight, scales[:-1])


SUMS = 1e-2  # of fp8 numbers, in 14 bits: 18944 of them are off by 4e-3


@pytest.mark.gpu
@pytest.mark.parametrize("name", LAYER)
@pytest.mark.parametrize("tokens", [1, 9, 64, 128, 272, 384])
def test_products_in_fp8_are_right_on_the_decoders_shapes(error, tokens, name):
    """One token is in fp8 where the extension is missing."""
    torch.manual_seed(0)
    width, depth = LAYER[name]
    x, weight = (quantize.quantize(draw(rows, depth)) for rows in (tokens, width))
    truth = op.reference_scaled_gemm(*x, *weight, torch.float32)
    assert error(op.scaled_gemm(*x, *weight), truth) < SUMS, "scaled"
    assert error(dense(op.bare_gemm(*x, *weight)), truth) < SUMS, "bare"


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(3840, 1280), (1280, 3456), (1024, 4096)], ids=str)
@pytest.mark.parametrize("patches", [64, 1025, 2048])
def test_products_in_fp8_with_a_bias_are_right_on_the_towers_shapes(error, patches, shape):
    torch.manual_seed(0)
    x, weight = (quantize.quantize(draw(rows, shape[1])) for rows in (patches, shape[0]))
    bias = 30 * draw(1, shape[0])[0]
    truth = op.reference_scaled_gemm(*x, *weight, torch.float32, bias.float())
    assert error(op.scaled_gemm(*x, *weight, bias=bias), truth) < SUMS, "scaled"
    assert error(dense(op.bare_gemm(*x, *weight, bias=bias)), truth) < SUMS, "bare"


@pytest.mark.gpu
def test_a_product_of_one_scale_is_captured_with_it():
    """The scale lies outside of the graph's memory."""
    x, weight = (quantize.quantize(draw(rows, 256)) for rows in (32, 64))
    op.one(x.values.device)
    first = dense(op.bare_gemm(*x, *weight))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = op.bare_gemm(*x, *weight)
    graph.replay()
    assert torch.equal(dense(again), first)
