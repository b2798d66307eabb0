"""norm_gemm, norm and product of a few tokens in one launch, against the ops it replaces, weights cold; gate_up with its swiglu.

    python -m benchmarks.bench_norm_gemm [--refcheck] [--alone] [--only "fp8"]

"product" and "norm" are the two alone; "apart" is all of them, one behind the other.
"""

from functools import partial

import torch

from evostreaming.kernels.gemm import gemm
from evostreaming.kernels.norm import norm
from evostreaming.kernels.norm_gemm import norm_gemm, reference_norm_gemm
from evostreaming.kernels.quantize import quantize
from evostreaming.kernels.swiglu import swiglu

from .bench_gemm import BYTES, COLD, LAYER
from .cases import Case, main, speed_of

SHAPES = {
    f"{kind}, {tokens} tokens, {name}": (kind, tokens, name) for kind in ("bf16", "fp8") for name in ("qkv", "gate_up") for tokens in (1, 4)
}


def refcheck(x, residual, gain, eps, weight, scales, gated):
    """Norm-relative error to float32; raises AssertionError above bf16 rounding."""
    wide = (weight.float() if scales is None else weight.float() * scales[:, None]).t()
    truth = norm(x.float() + residual.float(), gain.float(), eps)[0] @ wide
    truth = swiglu(truth) if gated else truth
    error = ((norm_gemm(x, residual, gain, eps, weight, scales, gated)[0].float() - truth).norm() / truth.norm()).item()
    assert error < 8e-3, error


def cases(kind, tokens, name):
    width, depth = LAYER[name]
    draw = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.bfloat16)  # noqa: E731
    rows = draw(tokens, depth), draw(tokens, depth), draw(depth), 1e-6
    weights = [draw(width, depth) * depth**-0.5 for _ in range(max(2, -(-COLD // (width * depth * BYTES[kind]))))]
    weights = [(*(quantize(weight) if kind == "fp8" else (weight, None)), name == "gate_up") for weight in weights]
    what, size = f"{kind}, {tokens} tokens, {name}", BYTES[kind] * width * depth
    ways = {
        "one launch": [partial(norm_gemm, *rows, *weight) for weight in weights],
        "apart": [partial(reference_norm_gemm, *rows, *weight) for weight in weights],
        "product": [partial(gemm, rows[0], *weight[:2]) for weight in weights],
        "norm": [partial(norm, rows[0], rows[2], rows[3], rows[1])],
    }
    for way, calls in ways.items():
        check = partial(refcheck, *rows, *weights[0]) if way == "one launch" else None
        yield Case(what, way, calls, size=size if way != "norm" else 0, check=check)


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
