"""rotate against its formula in PyTorch ops and compiled by inductor, in one process.

    python -m benchmarks.bench_rotate [--refcheck] [--alone]
"""

from functools import partial

import torch

from evostreaming.kernels.rotate import reference_rotate, rotate

from .cases import Case, main, speed_of

SHAPES = {f"{layers} x {kv_heads} heads": (layers, kv_heads) for layers, kv_heads in ((28, 4), (36, 8))}


def refcheck(keys, cos, sin):
    """Norm-relative error to float32; raises AssertionError above bf16 rounding."""
    truth = reference_rotate(keys.float(), cos, sin)
    error = ((rotate(keys, cos, sin).float() - truth).norm() / truth.norm()).item()
    assert error < 4e-3, error


def cases(layers, kv_heads):
    keys = torch.randn(4, layers, 512, kv_heads, 128, device="cuda", dtype=torch.bfloat16)
    angle = torch.rand(512, 64, device="cuda")
    cos, sin = angle.cos(), angle.sin()
    check = partial(refcheck, keys[0], cos, sin)
    compiled = torch.compile(reference_rotate, dynamic=False)
    for name, op in (("triton", rotate), ("torch ops", reference_rotate), ("torch.compile", compiled)):
        calls = [partial(op, some, cos, sin) for some in keys]
        yield Case(f"rotate, 512 sinks, {layers} x {kv_heads} heads", name, calls, 2 * keys[0].nbytes, check)
        check = None


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
