"""swiglu against its formula in PyTorch ops and compiled by inductor, in one process.

    python -m benchmarks.bench_swiglu [--refcheck]
"""

import argparse

import torch

from evostreaming.kernels.swiglu import reference_swiglu, swiglu

from .timing import microseconds, report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refcheck", action="store_true", help="compare with float32 before timing")
    options = parser.parse_args()
    compiled = torch.compile(reference_swiglu)
    for tokens in (1, 272, 2176):
        x = torch.randn(8, tokens, 2 * 18944, device="cuda", dtype=torch.bfloat16)
        if options.refcheck:
            truth = reference_swiglu(x[0].float())
            error = ((swiglu(x[0]).float() - truth).norm() / truth.norm()).item()
            assert error < 4e-3, error
        for name, op in (("triton", swiglu), ("torch ops", reference_swiglu), ("torch.compile", compiled)):
            sets = [lambda op=op, a=a: op(a) for a in x]
            report(f"swiglu, {tokens} tokens of 18944", f"{name} cold", microseconds(sets), 3 * tokens * 18944 * 2)
            report(f"swiglu, {tokens} tokens of 18944", f"{name} hot", microseconds(sets[:1]))


if __name__ == "__main__":
    main()
