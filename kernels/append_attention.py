"""Attention of ragged new tokens over paged context, causal at the tail, grouped-query.

For stream b with n_b new tokens and a table of L_b logical slots, of which [hole_start, hole_end) are dead (evicted), token i of n_b sees
every live slot below L_b - n_b + i + 1:

    out = softmax(q·k / sqrt(D)) · v        (float32 accumulation)

Shapes: q (T, H, D), T = sum of n_b; pages (N, 128, K, D); block_table (B, P) int32; lengths (B,) int32 = L_b after the append;
holes (B, 2) int32; query_start (B + 1,) int32; returns (T, H, D).
Floor: 4·H·D·sum(n_b·L_b) FLOPs and 2·K·D·size·sum(L_b) bytes; compute-bound from about 30 new tokens on.
"""

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

from .decode_attention import decode_attention
from .optional_triton import triton_or_twin as implementation  # noqa: F401 (asked by name)
from .paged_attention import PAGE, paged_attention, runs_on_triton


def live_slots(block_table, lengths, holes):
    """Flat slots of the live tokens of every stream, in order: a list of B int64 tensors on the device of `block_table`.

    Reads the three small tensors on the host once; one list serves all layers of a step.
    """
    result = []
    for row, length, (start, end) in zip(block_table, lengths.tolist(), holes.tolist()):
        logical = torch.arange(length, device=row.device)
        if end > start:
            logical = torch.cat((logical[:start], logical[end:]))
        result.append(row[logical // PAGE].long() * PAGE + logical % PAGE)
    return result


def reference_append_attention(q, key_pages, value_pages, slots, query_start):
    """Plain twin: gathers each stream's live slots (from `live_slots`) and calls scaled_dot_product_attention.

    `query_start` is a host list here. Returns (T, H, D) in the dtype of `q`.
    """
    heads, dim = q.shape[1:]
    kv_heads = key_pages.shape[-2]
    out = torch.empty_like(q)
    for index, visible in enumerate(slots):
        begin, end = query_start[index], query_start[index + 1]
        new, total = end - begin, visible.numel()
        if new == 0:
            continue
        keys = key_pages.view(-1, kv_heads, dim)[visible].transpose(0, 1).repeat_interleave(heads // kv_heads, 0)
        values = value_pages.view(-1, kv_heads, dim)[visible].transpose(0, 1).repeat_interleave(heads // kv_heads, 0)
        mask = None
        if new > 1 and q.is_cuda:
            mask = causal_lower_right(new, total)
        elif new > 1:
            mask = torch.ones(new, total, dtype=torch.bool).tril(total - new)
        attended = F.scaled_dot_product_attention(q[begin:end].transpose(0, 1)[None], keys[None], values[None], attn_mask=mask)
        out[begin:end] = attended[0].transpose(0, 1)
    return out


@torch.library.custom_op("evostreaming::append_attention", mutates_args=())
def append_attention_op(
    q: torch.Tensor, key_pages: torch.Tensor, value_pages: torch.Tensor, block_table: torch.Tensor, lengths: torch.Tensor,
    holes: torch.Tensor, query_start: torch.Tensor, longest: int,
) -> torch.Tensor:  # fmt: skip
    """`append_attention` as an op of PyTorch, so that compilers take it whole; the plan as tensors."""
    if runs_on_triton(q, key_pages):
        return paged_attention(q, key_pages, value_pages, block_table, lengths, holes, query_start, longest)
    slots = live_slots(block_table, lengths, holes)
    return reference_append_attention(q, key_pages, value_pages, slots, query_start.tolist())


@append_attention_op.register_fake
def fake_append_attention(q, key_pages, value_pages, block_table, lengths, holes, query_start, longest):
    return q.new_empty(q.shape)


def append_attention(q, key_pages, value_pages, plan):
    """Attention of the new tokens over their streams' pages; `plan` is the step's `engine.plan.Plan`. Returns (T, H, D).

    New tokens stand at the end of their stream, behind its hole. Slots past a stream's length may hold anything; those in a hole held keys
    and values once, so they are finite. On CUDA, when no stream has more than one new token, `decode_attention` does it.
    """
    assert q.shape[0] == plan.tokens, f"{q.shape[0]} query rows for a plan of {plan.tokens} tokens"
    assert q.shape[1] % key_pages.shape[-2] == 0, f"{q.shape[1]} heads do not divide into {key_pages.shape[-2]} groups"
    if not runs_on_triton(q, key_pages) and not torch.compiler.is_compiling():
        # The plan looks up its slots once for all layers; the op would do it in each.
        return reference_append_attention(q, key_pages, value_pages, plan.live_slots, plan.host_query_start)
    if plan.longest == 1:
        return decode_attention(q, key_pages, value_pages, plan.block_table, plan.lengths, plan.holes, plan.query_start)
    return append_attention_op(q, key_pages, value_pages, plan.block_table, plan.lengths, plan.holes, plan.query_start, plan.longest)
