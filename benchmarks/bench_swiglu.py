"""swiglu, and gelu of the towers, against their formulas in PyTorch ops and compiled by inductor, in one process.

    python -m benchmarks.bench_swiglu [--refcheck] [--alone]

"cold" takes turns over 8 sets of rows, which exceed the L2 cache from 272 tokens on; "hot" repeats one.
"""

from functools import partial

import torch

from evostreaming.kernels.gelu import gelu, reference_gelu
from evostreaming.kernels.swiglu import reference_swiglu, swiglu

from .cases import Case, main, speed_of

SHAPES = {f"swiglu, {tokens} x 18944": ("swiglu", tokens, 18944) for tokens in (1, 272, 2176)}
SHAPES |= {f"gelu {kind}, 1024 x {width}": (kind, 1024, width) for kind, width in (("tanh", 4304), ("erf", 4096), ("quick", 5120))}


def refcheck(ours, truth):
    """Norm-relative error to float32; raises AssertionError above bf16 rounding."""
    got, expected = ours().float(), truth()
    error = ((got - expected).norm() / expected.norm()).item()
    assert error < 4e-3, error


def refcheck_fp8(ours, truth):
    """Norm-relative error of what comes out in fp8 to float32; raises AssertionError above fp8 rounding."""
    (values, scales), expected = ours(), truth()
    error = ((values.float() * scales[:, None] - expected).norm() / expected.norm()).item()
    assert error < 4e-2, error


def cases(kind, tokens, width):
    gated = kind == "swiglu"
    x = torch.randn(8, tokens, width * (2 if gated else 1), device="cuda", dtype=torch.bfloat16)
    ours, theirs = (swiglu, reference_swiglu) if gated else (partial(gelu, kind=kind), partial(reference_gelu, kind=kind))
    what, numbers = (kind if gated else f"gelu {kind}"), tokens * width * (3 if gated else 2)
    truth = partial(theirs, x[0].float())
    ways = {"triton": ours, "torch ops": theirs}
    if tokens == 272 or kind == "tanh":
        ways["torch.compile"] = torch.compile(theirs, dynamic=False)
    for heat, sets in (("cold", len(x)), ("hot", 1)):
        for name, op in ways.items():
            calls = [partial(op, rows) for rows in x[:sets]]
            check = partial(refcheck, calls[0], truth) if op is ours else None
            yield Case(f"{what}, {tokens} x {width}, {heat}", name, calls, 2 * numbers if heat == "cold" else 0, check)
    calls = [partial(ours, rows, quantized=True) for rows in x]
    size = 2 * numbers - tokens * width
    yield Case(f"{what} to fp8, {tokens} x {width}, cold", "triton", calls, size, partial(refcheck_fp8, calls[0], truth))


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
