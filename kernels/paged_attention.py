"""The Triton kernel behind `append_attention` and `decode_attention`: grouped-query attention over pages, work split evenly on the device.

A tile is BLOCK_M rows of one KV head of one stream; a row is one (new token, query head of the group). A unit is BLOCK_N consecutive slots,
at most one page. All units of all tiles form one line, cut into equal shares, one a program (stream-K). Each program finds its share from
`lengths`, `holes` and `query_start`, so neither grid nor arguments change as the context grows, and a CUDA graph needs no new capture.
A tile that a program holds alone is written at once; the others leave partial sums that a second kernel merges.

Within a tile the clean units, which every row sees whole, come first; units at an edge of the hole and at the causal tail follow, masked.
"""

from functools import cache
from typing import NamedTuple

import torch

from .optional_triton import TensorDescriptor, jit, tl, triton

PAGE = 128
LOG2_E = 1.4426950408889634


class Config(NamedTuple):
    """How one shape is run: tile sizes, warps, pipeline stages and programs on each multiprocessor."""

    block_m: int
    block_n: int
    warps: int
    stages: int
    occupancy: int
    least: int = 2  # units in a share; fewer would cost more in merging than they save


def choose_config(rows):
    """The measured best for tiles of at most `rows` rows."""
    if rows <= 16:
        return Config(16, 64, 4, 4, 2)
    if rows <= 64:
        return Config(64, 128, 4, 2, 1)
    return Config(128, 128, 8, 2, 1)


@jit
def _spans(length, new, hole_start, hole_end, first, last, BLOCK_N: tl.constexpr):
    """Units of the tile of tokens first..last of `new`, as (clean sinks, window start, clean end, clean, edges, all), counted in units."""
    hole_start = tl.where(hole_end > hole_start, hole_start, 0)
    hole_end = tl.where(hole_end > hole_start, hole_end, 0)
    sinks = hole_start // BLOCK_N
    window = (hole_end + BLOCK_N - 1) // BLOCK_N
    left = (hole_start % BLOCK_N > 0).to(tl.int32)
    right = ((hole_end % BLOCK_N > 0) & ((left == 0) | (hole_end // BLOCK_N != sinks))).to(tl.int32)
    clean_end = tl.maximum((length - new + first + 1) // BLOCK_N, window)
    end = tl.maximum((length - new + last + BLOCK_N) // BLOCK_N, clean_end)
    clean = sinks + clean_end - window
    return sinks, window, clean_end, clean, left + right, clean + left + right + end - clean_end


@jit
def _tile(index, lengths, holes, query_start, streams, per_stream, GROUP: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Tile `index` of a head (a number, or a tensor of them): (stream, start, new, length, hole start, hole end, first row, units, spans)."""
    stream, row = index // per_stream, index % per_stream * BLOCK_M
    real = stream < streams
    start = tl.load(query_start + stream, real, 0)
    new = tl.load(query_start + stream + 1, real, 0) - start
    length = tl.load(lengths + stream, real, 0)
    hole_start, hole_end = tl.load(holes + 2 * stream, real, 0), tl.load(holes + 2 * stream + 1, real, 0)
    last = tl.minimum((row + BLOCK_M - 1) // GROUP, new - 1)
    spans = _spans(length, new, hole_start, hole_end, row // GROUP, last, BLOCK_N)
    units = tl.where(row // GROUP < new, spans[5], 0)
    return stream, start, new, length, hole_start, hole_end, row, units, spans


@jit
def _schedule(tile, lengths, holes, query_start, streams, per_stream, programs, LEAST, KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
              BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """For all tiles of a head: their units, where they end on the head's line, the length of the line, and the share of a program."""
    _, _, _, _, _, _, _, units, _ = _tile(tile, lengths, holes, query_start, streams, per_stream, GROUP, BLOCK_M, BLOCK_N)
    per_head = tl.sum(units, 0)
    share = tl.maximum((per_head * KV_HEADS + programs - 1) // programs, LEAST)
    return units, tl.cumsum(units, 0), per_head, share


@jit
def _attend(q, acc, peak, total, keys, values, table, head, limit, length, hole_start, hole_end, spans, first, last, scale,
            D: tl.constexpr, BLOCK_N: tl.constexpr, PAGE_SIZE: tl.constexpr, STAGES: tl.constexpr, MASKED: tl.constexpr):
    """Online softmax over units first..last of a tile; (acc, peak, total) are the running sums, the peak in units of log2."""
    unit = _unit(first, spans, hole_end, BLOCK_N)
    page = tl.load(table + unit * BLOCK_N // PAGE_SIZE, first < last, 0)
    for index in tl.range(first, last, num_stages=STAGES):
        row = page * PAGE_SIZE + unit * BLOCK_N % PAGE_SIZE
        k = keys.load([row, head * D])
        v = values.load([row, head * D])
        score = tl.dot(q, k.T)
        if MASKED:
            slot = unit * BLOCK_N + tl.arange(0, BLOCK_N)
            live = (slot < hole_start) | (slot >= hole_end)
            score = tl.where((slot[None, :] < limit[:, None]) & live[None, :], score, float("-inf"))
            # Dead slots may hold anything, and 0 * NaN is NaN.
            v = tl.where((live & (slot < length))[:, None], v, 0.0)
        # The next unit's page is looked up one turn ahead: its latency would stall the copy of the tile.
        unit = _unit(tl.minimum(index + 1, last - 1), spans, hole_end, BLOCK_N)
        page = tl.load(table + unit * BLOCK_N // PAGE_SIZE)
        higher = tl.maximum(peak, tl.max(score, 1) * scale)
        weight = tl.exp2(score * scale - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(weight, 1)
        acc = tl.dot(weight.to(v.dtype), v, acc * shrink[:, None])
        peak = higher
    return acc, peak, total


@jit
def _unit(index, spans, hole_end, BLOCK_N: tl.constexpr):
    """The unit of slots that is the tile's `index`-th."""
    sinks, window, clean_end, clean, edges, _ = spans
    edge = index - clean
    at_edge = tl.where(edge == edges - 1, tl.where(hole_end % BLOCK_N > 0, hole_end // BLOCK_N, sinks), sinks)
    masked = tl.where(edge < edges, at_edge, clean_end + edge - edges)
    return tl.where(index < clean, tl.where(index < sinks, index, index - sinks + window), masked)


@jit
def _attention_kernel(q, keys, values, out, partials, table, lengths, holes, query_start, streams, per_stream, table_width, scale, LEAST,
                      KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, PAGE_SIZE: tl.constexpr, BLOCK_M: tl.constexpr,
                      BLOCK_N: tl.constexpr, TILES: tl.constexpr, STAGES: tl.constexpr):
    program = tl.program_id(0)
    tile = tl.arange(0, TILES)
    all_units, ends, per_head, share = _schedule(tile, lengths, holes, query_start, streams, per_stream, tl.num_programs(0), LEAST,
                                                 KV_HEADS, GROUP, BLOCK_M, BLOCK_N)
    at = program * share
    stop = tl.minimum(at + share, per_head * KV_HEADS)
    while at < stop:
        head = at // per_head
        mine = tl.sum((ends <= at - head * per_head).to(tl.int32), 0)
        stream, start, new, length, hole_start, hole_end, row, units, spans = _tile(
            mine, lengths, holes, query_start, streams, per_stream, GROUP, BLOCK_M, BLOCK_N)
        end = head * per_head + tl.sum(tl.where(tile == mine, ends, 0), 0)
        begin = end - units
        until = tl.minimum(stop, end)

        rows = row + tl.arange(0, BLOCK_M)
        token = tl.minimum(rows // GROUP, new - 1)
        real = rows < new * GROUP
        columns = tl.arange(0, D)
        where = ((start + token).to(tl.int64) * KV_HEADS + head) * GROUP + rows % GROUP
        place = where[:, None] * D + columns[None, :]
        block_q = tl.load(q + place, real[:, None], 0.0)
        acc = tl.zeros([BLOCK_M, D], tl.float32)
        # A finite floor: a row that sees nothing of a unit must not compute inf - inf.
        peak = tl.full([BLOCK_M], -1e30, tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        limit = length - new + token + 1
        row_table = table + stream * table_width
        clean = begin + spans[3]
        acc, peak, total = _attend(block_q, acc, peak, total, keys, values, row_table, head, limit, length, hole_start, hole_end, spans,
                                   at - begin, tl.minimum(until, clean) - begin, scale, D, BLOCK_N, PAGE_SIZE, STAGES, False)
        acc, peak, total = _attend(block_q, acc, peak, total, keys, values, row_table, head, limit, length, hole_start, hole_end, spans,
                                   tl.maximum(at, clean) - begin, until - begin, scale, D, BLOCK_N, PAGE_SIZE, STAGES, True)

        if (at == begin) & (until == end):
            tl.store(out + place, (acc / total[:, None]).to(out.dtype.element_ty), real[:, None])
        else:
            slot = 2 * program + (begin > program * share).to(tl.int32)
            partial = partials + slot.to(tl.int64) * (BLOCK_M * (D + 2))
            inside = tl.arange(0, BLOCK_M)
            tl.store(partial + inside[:, None] * D + columns[None, :], acc)
            tl.store(partial + BLOCK_M * D + inside, peak)
            tl.store(partial + BLOCK_M * (D + 1) + inside, total)
        at = until


@jit
def _merge_kernel(out, partials, lengths, holes, query_start, streams, per_stream, programs, LEAST, KV_HEADS: tl.constexpr,
                  GROUP: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TILES: tl.constexpr,
                  ROWS: tl.constexpr):
    """Merge the partial sums of ROWS rows of one tile that several programs shared."""
    mine, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tile = tl.arange(0, TILES)
    all_units, ends, per_head, share = _schedule(tile, lengths, holes, query_start, streams, per_stream, programs, LEAST, KV_HEADS, GROUP,
                                                 BLOCK_M, BLOCK_N)
    end = head * per_head + tl.sum(tl.where(tile == mine, ends, 0), 0)
    begin = end - tl.sum(tl.where(tile == mine, all_units, 0), 0)
    first, last = begin // share, (end - 1) // share
    if (begin == end) | (first == last):
        return
    inside = part * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, D)
    acc = tl.zeros([ROWS, D], tl.float32)
    peak = tl.full([ROWS], -1e30, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for program in range(first, last + 1):
        slot = 2 * program + (begin > program * share).to(tl.int32)
        partial = partials + slot.to(tl.int64) * (BLOCK_M * (D + 2))
        its_peak = tl.load(partial + BLOCK_M * D + inside)
        higher = tl.maximum(peak, its_peak)
        shrink, weight = tl.exp2(peak - higher), tl.exp2(its_peak - higher)
        acc = acc * shrink[:, None] + tl.load(partial + inside[:, None] * D + columns[None, :]) * weight[:, None]
        total = total * shrink + tl.load(partial + BLOCK_M * (D + 1) + inside) * weight
        peak = higher
    stream = mine // per_stream
    start = tl.load(query_start + stream)
    new = tl.load(query_start + stream + 1) - start
    rows = mine % per_stream * BLOCK_M + inside
    where = ((start + rows // GROUP).to(tl.int64) * KV_HEADS + head) * GROUP + rows % GROUP
    tl.store(out + where[:, None] * D + columns[None, :], (acc / total[:, None]).to(out.dtype.element_ty), (rows < new * GROUP)[:, None])


@cache
def multiprocessors(device):
    """Multiprocessors of a CUDA device; the interpreter on a CPU gets a few programs, enough to share tiles."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 3


def paged_attention(q, key_pages, value_pages, block_table, lengths, holes, query_start, longest, config=None):
    """q (T, H, D) over pages (N, 128, K, D): (T, H, D). `longest`, a host int, bounds the new tokens of a stream; it and the shapes alone
    fix the launch, so a captured graph stays right when the device tensors change."""
    tokens, heads, dim = q.shape
    kv_heads = key_pages.shape[2]
    group, streams = heads // kv_heads, lengths.shape[0]
    config = config or choose_config(longest * group)
    per_stream = triton.cdiv(longest * group, config.block_m)
    tiles = max(32, triton.next_power_of_2(streams * per_stream))
    programs = multiprocessors(q.device) * config.occupancy
    out = torch.empty_like(q)
    partials = torch.empty(2 * programs * config.block_m * (dim + 2), dtype=torch.float32, device=q.device)
    keys, values = (
        TensorDescriptor.from_tensor(pages.view(-1, kv_heads * dim), [config.block_n, dim]) for pages in (key_pages, value_pages)
    )
    shape = dict(KV_HEADS=kv_heads, GROUP=group, D=dim, BLOCK_M=config.block_m, BLOCK_N=config.block_n, TILES=tiles)
    _attention_kernel[(programs,)](
        q, keys, values, out, partials, block_table, lengths, holes, query_start, streams, per_stream, block_table.stride(0),
        LOG2_E * dim**-0.5, config.least, **shape, PAGE_SIZE=PAGE, STAGES=config.stages, num_warps=config.warps,
    )
    rows = min(16, config.block_m)
    _merge_kernel[(streams * per_stream, kv_heads, config.block_m // rows)](
        out, partials, lengths, holes, query_start, streams, per_stream, programs, config.least, **shape, ROWS=rows, num_warps=4,
    )
    return out
