"""Attention of one new token a stream over paged context: the decode of replies.

    out[b] = softmax(q[b]·k / sqrt(D)) · v          over the live slots of stream b, float32 accumulation

Shapes: q (T, H, D), T <= B, one row for every stream that has a new token, as query_start tells; pages, block_table, lengths, holes as in
`append_attention`; returns (T, H, D). The query heads of a KV head are the rows of one tile, so every page is read once.
Floor: 2·K·D·size·sum(L_b) bytes against 4·H·D·sum(L_b) FLOPs; bound by bytes.
"""

import torch

from .optional_triton import triton_or_twin as implementation  # noqa: F401 (asked by name)
from .paged_attention import PAGE, paged_attention, runs_on_triton


def reference_decode_attention(q, key_pages, value_pages, block_table, lengths, holes, query_start):
    """Plain twin: every row against all slots of its stream's table, the dead ones masked. Returns (T, H, D) in the dtype of `q`."""
    rows = torch.arange(q.shape[0], device=q.device, dtype=query_start.dtype)
    stream = torch.searchsorted(query_start, rows, right=True) - 1
    slot = torch.arange(block_table.shape[1] * PAGE, device=q.device)
    start, end = holes[stream, :1], holes[stream, 1:]
    live = (slot < lengths[stream, None]) & ((slot < start) | (slot >= end))
    group = q.shape[1] // key_pages.shape[2]
    # Dead slots may hold anything, and 0 * NaN is NaN.
    keys, values = (
        pages[block_table[stream]].flatten(1, 2).masked_fill(~live[..., None, None], 0).repeat_interleave(group, 2)
        for pages in (key_pages, value_pages)
    )
    score = torch.einsum("thd,tshd->ths", q, keys).masked_fill(~live[:, None], float("-inf")) * q.shape[-1] ** -0.5
    return torch.einsum("ths,tshd->thd", score.softmax(-1), values)


@torch.library.custom_op("evostreaming::decode_attention", mutates_args=())
def decode_attention_op(
    q: torch.Tensor, key_pages: torch.Tensor, value_pages: torch.Tensor, block_table: torch.Tensor, lengths: torch.Tensor,
    holes: torch.Tensor, query_start: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """`decode_attention` as an op of PyTorch, so that compilers take it whole."""
    if runs_on_triton(q, key_pages):
        return paged_attention(q, key_pages, value_pages, block_table, lengths, holes, query_start, 1)
    return reference_decode_attention(q, key_pages, value_pages, block_table, lengths, holes, query_start)


@decode_attention_op.register_fake
def fake_decode_attention(q, key_pages, value_pages, block_table, lengths, holes, query_start):
    return q.new_empty(q.shape)


def decode_attention(q, key_pages, value_pages, block_table, lengths, holes, query_start):
    """q (T, H, D), T <= B, one row for every stream that has a new token -> (T, H, D)."""
    streams = lengths.shape[0]
    assert q.shape[0] <= streams, f"{q.shape[0]} tokens for {streams} streams: more than one a stream is append_attention's work"
    assert q.shape[1] % key_pages.shape[-2] == 0, f"{q.shape[1]} heads do not divide into {key_pages.shape[-2]} groups"
    return decode_attention_op(q, key_pages, value_pages, block_table, lengths, holes, query_start)
