"""gate against cuBLAS logits followed by log-sum-exp, as PyTorch ops and with the tail compiled by inductor, in one process.

    python -m benchmarks.bench_gate [--refcheck] [--alone]
"""

import math
from functools import partial

import torch

from evostreaming.kernels.gate import gate, implementation, reference_gate
from evostreaming.kernels.norm import reference_norm

from .cases import Case, main, speed_of

SHAPES = {
    f"{mode} {width} x {vocabulary}, B={streams}": (mode, width, vocabulary, streams)
    for width, vocabulary in ((3584, 152064), (4096, 151936))
    for streams in (1, 8, 16, 32)
    for mode in ("pair", "softmax")
}
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


def refcheck(args):
    """Difference of the probabilities to float32; raises AssertionError above what one rounding moves."""
    truth = reference_gate(*(arg.float() if torch.is_tensor(arg) else arg for arg in args))[1]
    error = (gate(*args)[1] - truth).abs().max().item()
    assert error < 2e-3, error


def cases(mode, width, vocabulary, streams):
    assert implementation("cuda") == "cuda", "build the CUDA ops first: pip install --no-build-isolation --no-deps -e ."
    random = torch.Generator("cuda").manual_seed(0)
    head = torch.randn(vocabulary, width, generator=random, device="cuda", dtype=torch.bfloat16).mul_(2 / width**0.5)
    weight = torch.ones(width, device="cuda", dtype=torch.bfloat16)
    base = torch.randn(width, generator=random, device="cuda")
    rows = (base + 0.3 * torch.randn(streams, width, generator=random, device="cuda")).bfloat16()
    # As likely as all other tokens together: a probability near 0 or 1 would hide an error of the logits.
    head[SILENCE] = base * (math.log(vocabulary) + 2 if mode == "softmax" else 1) / width
    args, peer = (rows, weight, EPS, head, SILENCE, MARKER, mode, 0.5), (rows, weight, head, mode)
    size = head[: 2 if mode == "pair" else None].nbytes
    what = f"gate {mode} {width} x {vocabulary}, B={streams}"
    yield Case(what, "cuda", [partial(gate, *args)], size, partial(refcheck, args))
    yield Case(what, "torch ops, bf16 logits", [partial(bf16_logits, *peer)], size)
    if mode == "softmax" and streams == 32:
        yield Case(what, "torch.compile, bf16 logits", [partial(torch.compile(bf16_logits, dynamic=False), *peer)], size)


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
