"""append against the same formula in PyTorch ops and compiled by inductor, in one process.

    python -m benchmarks.bench_append [--refcheck] [--alone]

"cold" takes turns over data sets that exceed the L2 cache, "hot" repeats one: in a step, qkv comes hot from the product before.
"""

from functools import partial

import torch

from evostreaming.kernels.append import append, implementation, reference_append, rotate_half_pairs
from evostreaming.kernels.norm import reference_norm

from .cases import Case, main, speed_of

SHAPES = {
    f"{name}, {tokens} tokens": (f"append {name}, {tokens} tokens", tokens, *heads)
    for name, heads in {"28/4 heads": (28, 4, False), "32/8 heads, QK-norm": (32, 8, True)}.items()
    for tokens in (1, 64, 272, 2176)
}


def data(tokens, heads, kv_heads, norm, pages, generator):
    """Random arguments of one call."""

    def draw(*shape, dtype=torch.bfloat16):
        return torch.randn(*shape, generator=generator, device="cuda", dtype=dtype)

    angles = draw(tokens, 64, dtype=torch.float32)
    slots = torch.randperm(pages.shape[1] * 128, generator=generator, device="cuda")[:tokens]
    norms = (draw(128), draw(128)) if norm else (None, None)
    return draw(tokens, (heads + 2 * kv_heads) * 128), angles.cos(), angles.sin(), pages[0], pages[1], slots, *norms


def rotated(qkv, cos, sin, kv_heads, q_norm, k_norm):
    """The twin's arithmetic: q, k, v in bf16."""
    x = qkv.view(len(qkv), -1, 128)
    q, k, v = x.split((x.shape[1] - 2 * kv_heads, kv_heads, kv_heads), dim=1)
    if q_norm is not None:
        q, k = reference_norm(q, q_norm, 1e-6)[0], reference_norm(k, k_norm, 1e-6)[0]
    return *(rotate_half_pairs(part.float(), cos, sin).to(qkv.dtype) for part in (q, k)), v


def peer(rotate, qkv, cos, sin, key_pages, value_pages, slots, q_norm, k_norm):
    """The twin without its skip of negative slots, which would make the host wait. The writes stay outside of `rotate`: compiled together
    they would copy the pool."""
    kv_heads = key_pages.shape[2]
    q, k, v = rotate(qkv, cos, sin, kv_heads, q_norm, k_norm)
    key_pages.view(-1, kv_heads, 128)[slots] = k
    value_pages.view(-1, kv_heads, 128)[slots] = v
    return q


def refcheck(args):
    """Norm-relative difference to the twin in float32; raises AssertionError above bf16 rounding."""
    wide = [arg.float() if arg is not None and arg.is_floating_point() else arg for arg in args]
    expected = reference_append(*wide)
    got = append(*args)
    for ours, truth in ((got, expected), (args[3], wide[3]), (args[4], wide[4])):
        error = ((ours.float() - truth).norm() / truth.norm()).item()
        assert error < 4e-3, error


def cases(what, tokens, heads, kv_heads, norm):
    assert implementation("cuda") == "cuda", "build the CUDA ops first: pip install --no-build-isolation --no-deps -e ."
    generator = torch.Generator("cuda").manual_seed(0)
    pages = torch.zeros(2, 512, 128, kv_heads, 128, device="cuda", dtype=torch.bfloat16)
    sets = [data(tokens, heads, kv_heads, norm, pages, generator) for _ in range(2 if tokens > 1000 else 24)]
    size = 2 * 2 * tokens * (heads + 2 * kv_heads) * 128 + 4 * tokens * 128
    ops = {"cuda": append}
    if tokens in (1, 272):
        ops["torch ops"] = partial(peer, rotated)
    if tokens == 272:
        ops["torch.compile + index_put"] = partial(peer, torch.compile(rotated, dynamic=False))
    check = partial(refcheck, sets[0])
    for heat, some in (("cold", sets), ("hot", sets[:1])):
        for label, op in ops.items():
            yield Case(f"{what}, {heat}", label, [partial(op, *args) for args in some], size if heat == "cold" else 0, check)
            check = None


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
