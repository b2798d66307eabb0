"""Attention of one new token a stream over paged context: the decode of replies.

    out[b] = softmax(q[b]·k / sqrt(D)) · v          over the live slots of stream b, float32 accumulation

Shapes: q (B, H, D) with at most one row a stream, as query_start tells; pages, block_table, lengths, holes as in `append_attention`.
The query heads of a KV head are the rows of one tile, so every page is read once. The twin is `append_attention`'s: this is its case n = 1.
Floor: 2·K·D·size·sum(L_b) bytes against 4·H·D·sum(L_b) FLOPs; bound by bytes.
"""

from .optional_triton import triton_or_twin as implementation  # noqa: F401 (asked by name)
from .paged_attention import paged_attention


def decode_attention(q, key_pages, value_pages, block_table, lengths, holes, query_start, config=None):
    """q (T, H, D), T <= B, one row for every stream that has a new token -> (T, H, D)."""
    streams = lengths.shape[0]
    assert q.shape[0] <= streams, f"{q.shape[0]} tokens for {streams} streams: more than one a stream is append_attention's work"
    assert q.shape[1] % key_pages.shape[-2] == 0, f"{q.shape[1]} heads do not divide into {key_pages.shape[-2]} groups"
    return paged_attention(q, key_pages, value_pages, block_table, lengths, holes, query_start, 1, config)
