"""append_attention against FlashAttention-3, cuDNN, PyTorch's flash kernel and flash-attn, over more data than the L2 cache holds.

    python -m benchmarks.bench_append_attention [--refcheck] [--alone] [--only "28/4 heads, B=1"]

The context holds the new tokens. FlashAttention-3 (where `fa3.py` finds it) reads the pages, at its best number of splits. The others take
no pages: keys and values were gathered into one block a stream before, which is not timed. cuDNN has no causal mask for a tail of new
tokens, so there every token sees all keys: up to 2 % more work.
"""

from functools import partial
from importlib.util import find_spec
from types import SimpleNamespace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from evostreaming.kernels.append_attention import append_attention, live_slots, reference_append_attention

from . import fa3
from .cases import Case, main, speed_of

HEADS = ((28, 4), (32, 8))
SHAPES = {
    f"{heads}/{kv_heads} heads, B={streams}, {context}": (heads, kv_heads, 272, streams, context)
    for heads, kv_heads in HEADS
    for streams, contexts in {1: (4096, 8192, 32768), 8: (8192,)}.items()
    for context in contexts
}
LARGE = 300_000_000  # bytes of keys and values that take turns


def data(heads, kv_heads, new, streams, context):
    """One layer's random queries and pages, and the plan of `streams` streams that all have this context."""
    wide = -(-context // 128)
    table = torch.randperm(streams * wide, device="cuda").view(streams, wide).int()
    keys, values = (torch.randn(streams * wide, 128, kv_heads, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    q = torch.randn(streams * new, heads, 128, device="cuda", dtype=torch.bfloat16)
    plan = SimpleNamespace(
        tokens=len(q), longest=new, block_table=table, holes=torch.zeros(streams, 2, dtype=torch.int32, device="cuda"),
        lengths=torch.full((streams,), context, dtype=torch.int32, device="cuda"),
        query_start=torch.arange(0, len(q) + 1, new, dtype=torch.int32, device="cuda"),
    )  # fmt: skip
    return q, keys, values, plan


def refcheck(q, keys, values, plan):
    """Norm-relative error to float32; raises AssertionError above bf16 rounding."""
    slots = live_slots(plan.block_table, plan.lengths, plan.holes)
    truth = reference_append_attention(q.float(), keys.float(), values.float(), slots, plan.query_start.tolist())
    error = ((append_attention(q, keys, values, plan).float() - truth).norm() / truth.norm()).item()
    assert error < 6e-3, error


def paged(sets, new, context, splits):
    """FlashAttention-3's calls on the pages."""
    out = torch.empty_like(sets[0][0])
    return [
        partial(fa3.paged, q, keys, values, plan.block_table, plan.lengths, plan.query_start, new, context, out, splits)
        for q, keys, values, plan in sets
    ]


def batch(x, streams):
    """Tokens (T, heads, D) or pages (N, 128, heads, D) as one block a stream: (B, heads, tokens, D)."""
    return x.view(streams, -1, *x.shape[-2:]).transpose(1, 2)


def by_cudnn(q, keys, values):
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return scaled_dot_product_attention(q, keys, values, enable_gqa=True)


def by_flash(q, keys, values):
    return scaled_dot_product_attention(q, keys, values, causal_lower_right(q.shape[2], keys.shape[2]), enable_gqa=True)


def by_flash_attn(q, keys, values):
    from flash_attn import flash_attn_func

    return flash_attn_func(*(x.transpose(1, 2) for x in (q, keys, values)), causal=True)


def cases(heads, kv_heads, new, streams, context):
    size = 2 * 2 * streams * context * kv_heads * 128
    sets = [data(heads, kv_heads, new, streams, context) for _ in range(max(1, min(8, LARGE // size)))]
    what = f"{heads}/{kv_heads} heads, {new} new, B={streams}, {context}"
    flops = 4 * heads * 128 * streams * (new * context - new * (new - 1) // 2)
    work = {"size": size, "flops": flops}
    yield Case(what, "triton", [partial(append_attention, *one) for one in sets], check=partial(refcheck, *sets[0]), **work)
    if fa3.available():
        yield Case(what, "FA3, paged", many={f"{splits} splits": paged(sets, new, context, splits) for splits in fa3.SPLITS}, **work)
    gathered = [[batch(x, streams) for x in (q, keys, values)] for q, keys, values, _ in sets]
    yield Case(what, "cuDNN, gathered K/V, no mask", [partial(by_cudnn, *one) for one in gathered], **work)
    yield Case(what, "torch flash, gathered K/V", [partial(by_flash, *one) for one in gathered], **work)
    if find_spec("flash_attn"):
        yield Case(what, "flash-attn, gathered K/V", [partial(by_flash_attn, *one) for one in gathered], **work)


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
