"""gate against cuBLAS logits followed by log-sum-exp, as PyTorch ops and with the tail compiled by inductor, in one process.

    python -m benchmarks.bench_gate [--refcheck]
"""

import argparse
from functools import partial

import torch

from evostreaming.kernels.gate import gate, implementation, reference_gate
from evostreaming.kernels.norm import reference_norm

from .timing import microseconds, report

SHAPES = {"3584 x 152064": (3584, 152064), "4096 x 151936": (4096, 151936)}
EPS, SILENCE, MARKER = 1e-6, 70000, 123


def bf16_logits(rows, weight, head, mode):
    """What an engine without the op does: bf16 logits from cuBLAS, then softmax in float32."""
    if mode == "pair":
        logits = (reference_norm(rows, weight, EPS)[0] @ torch.stack((head[SILENCE], head[MARKER])).t()).float()
        probability = torch.sigmoid(logits[:, 1] - logits[:, 0])
    else:
        logits = (reference_norm(rows, weight, EPS)[0] @ head.t()).float()
        probability = 1 - (logits[:, SILENCE] - torch.logsumexp(logits, -1)).exp()
    return probability >= 0.5, probability


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refcheck", action="store_true", help="compare with the plain twin before timing")
    parser.add_argument("--alone", action="store_true", help="time this op only, not its peers")
    options = parser.parse_args()
    assert implementation("cuda") == "cuda", "build the CUDA ops first: pip install --no-build-isolation --no-deps -e ."
    random = torch.Generator("cuda").manual_seed(0)
    compiled = torch.compile(bf16_logits, dynamic=False)
    for name, (width, vocabulary) in SHAPES.items():
        head = torch.randn(vocabulary, width, generator=random, device="cuda", dtype=torch.bfloat16).mul_(2 / width**0.5)
        weight = torch.ones(width, device="cuda", dtype=torch.bfloat16)
        for streams in (1, 8, 16, 32):
            rows = torch.randn(streams, width, generator=random, device="cuda", dtype=torch.bfloat16)
            for mode in ("pair", "softmax"):
                args = (rows, weight, EPS, head, SILENCE, MARKER, mode, 0.5)
                if options.refcheck:
                    error = (gate(*args)[1] - reference_gate(*args)[1]).abs().max().item()
                    assert error < 2e-3, error
                size = head[: 2 if mode == "pair" else None].nbytes
                what = f"gate {mode} {name}, B={streams}"
                report(what, "cuda", microseconds([partial(gate, *args)]), size)
                if streams in (1, 16) and not options.alone:
                    peer = rows, weight, head, mode
                    report(what, "torch ops, bf16 logits", microseconds([partial(bf16_logits, *peer)]), size)
                    if mode == "softmax":
                        report(what, "torch ops, f32 logits", microseconds([partial(reference_gate, *args)]), size)
                    report(what, "torch.compile, bf16 logits", microseconds([partial(compiled, *peer)]), size)


if __name__ == "__main__":
    main()
