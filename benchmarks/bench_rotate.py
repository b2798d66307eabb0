"""rotate against its formula in PyTorch ops and compiled by inductor, in one process.

    python -m benchmarks.bench_rotate [--refcheck]
"""

import argparse
from functools import partial

import torch

from evostreaming.kernels.rotate import reference_rotate, rotate

from .timing import microseconds, report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refcheck", action="store_true", help="compare with float32 before timing")
    options = parser.parse_args()
    compiled = torch.compile(reference_rotate)
    for layers, kv_heads in ((28, 4), (36, 8)):
        keys = torch.randn(4, layers, 512, kv_heads, 128, device="cuda", dtype=torch.bfloat16)
        angle = torch.rand(512, 64, device="cuda")
        cos, sin = angle.cos(), angle.sin()
        if options.refcheck:
            truth = reference_rotate(keys[0].float(), cos, sin)
            error = ((rotate(keys[0], cos, sin).float() - truth).norm() / truth.norm()).item()
            assert error < 4e-3, error
        for name, op in (("triton", rotate), ("torch ops", reference_rotate), ("torch.compile", compiled)):
            time = microseconds([partial(op, a, cos, sin) for a in keys])
            report(f"rotate, 512 sinks, {layers} x {kv_heads} heads", name, time, 2 * keys[0].nbytes)


if __name__ == "__main__":
    main()
