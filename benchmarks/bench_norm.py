"""norm against its formula in PyTorch ops and compiled by inductor, in one process.

    python -m benchmarks.bench_norm [--refcheck]
"""

import argparse
from functools import partial

import torch

from evostreaming.kernels.norm import norm, reference_norm

from .timing import microseconds, report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refcheck", action="store_true", help="compare with float32 before timing")
    options = parser.parse_args()
    compiled = torch.compile(reference_norm)
    for tokens in (1, 272, 2176, 8192):
        x, residual = (torch.randn(16, tokens, 3584, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        weight = torch.rand(3584, device="cuda", dtype=torch.bfloat16)
        if options.refcheck:
            got, total = norm(x[0], weight, 1e-6, residual[0])
            truth, _ = reference_norm(total.float(), weight.float(), 1e-6)
            error = ((got.float() - truth).norm() / truth.norm()).item()
            assert error < 6e-3, error
        for name, op in (("triton", norm), ("torch ops", reference_norm), ("torch.compile", compiled)):
            sets = [partial(op, a, weight, 1e-6, b) for a, b in zip(x, residual)]
            report(f"norm, {tokens} tokens of 3584", f"{name} cold", microseconds(sets), 4 * tokens * 3584 * 2)
            report(f"norm, {tokens} tokens of 3584", f"{name} hot", microseconds(sets[:1]))


if __name__ == "__main__":
    main()
