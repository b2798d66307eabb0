"""norm and layer_norm against their formulas in PyTorch ops and compiled by inductor, in one process.

    python -m benchmarks.bench_norm [--refcheck] [--alone]

"cold" takes turns over 16 sets of rows, which exceed the L2 cache from 272 tokens on; "hot" repeats one.
"""

from functools import partial

import torch

from evostreaming.kernels.norm import layer_norm, norm, reference_layer_norm, reference_norm

from .cases import Case, main, speed_of

SHAPES = {f"norm, {tokens} x 3584": ("norm", tokens, 3584) for tokens in (1, 272, 2176, 8192)}
SHAPES["layer_norm, 1024 x 1152"] = ("layer_norm", 1024, 1152)
EPS = 1e-6


def rms(op, weight, bias, x, residual):
    return op(x, weight, EPS, residual)


def layer(op, weight, bias, x, residual):
    return op(x, weight, bias, EPS, residual)


def refcheck(ours, truth):
    """Norm-relative error of (y, sum) to float32; raises AssertionError above bf16 rounding."""
    for got, expected in zip(ours(), truth()):
        error = ((got.float() - expected).norm() / expected.norm()).item()
        assert error < 6e-3, error


def refcheck_fp8(ours, truth):
    """Norm-relative error of what comes out in fp8 to float32; raises AssertionError above fp8 rounding."""
    (values, scales), expected = ours()[0], truth()[0]
    error = ((values.float() * scales[:, None] - expected).norm() / expected.norm()).item()
    assert error < 4e-2, error


def cases(kind, tokens, width):
    x, residual = (torch.randn(16, tokens, width, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    weight, bias = (torch.rand(width, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    call, ours, theirs = (rms, norm, reference_norm) if kind == "norm" else (layer, layer_norm, reference_layer_norm)
    truth = partial(call, theirs, weight.float(), bias.float(), x[0].float(), residual[0].float())
    ways = {"triton": ours, "torch ops": theirs}
    if tokens in (272, 8192, 1024):
        ways["torch.compile"] = torch.compile(theirs, dynamic=False)
    size = 8 * tokens * width
    for heat, sets in (("cold", len(x)), ("hot", 1)):
        for name, op in ways.items():
            calls = [partial(call, op, weight, bias, a, b) for a, b in zip(x[:sets], residual)]
            check = partial(refcheck, calls[0], truth) if op is ours else None
            yield Case(f"{kind}, {tokens} x {width}, {heat}", name, calls, size if heat == "cold" else 0, check)
    if kind == "norm":
        calls = [partial(norm, a, weight, EPS, b, quantized=True) for a, b in zip(x, residual)]
        yield Case(f"{kind} to fp8, {tokens} x {width}, cold", "triton", calls, 7 * tokens * width, partial(refcheck_fp8, calls[0], truth))


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
