"""The Triton kernels behind `append_attention` and `decode_attention`: grouped-query attention over pages.

Each program works through its part of the line of `attention_schedule`. A tile that one program holds alone is written at once; the others
leave partial sums (weighted values, peak and total of every row in float32) that a second kernel merges.
"""

from functools import cache
from typing import NamedTuple

import torch

from .attention_schedule import COUNTS, schedule, tile_at, turned, unit_at
from .hopper_attention import hopper_kernel
from .optional_triton import TensorDescriptor, TileDescriptor, gl, jit, tl, triton, triton_or_twin

PAGE = 128
LOG2_E = 1.4426950408889634
# Rows of 128 bytes, swizzled as wgmma reads them.
TILE_LAYOUT = gl.NVMMASharedLayout(128, 16, 2) if triton is not None else None


class Config(NamedTuple):
    """How one shape is run: tile sizes, warps, pipeline stages, programs on each multiprocessor, and which kernel works on the tiles."""

    block_m: int
    block_n: int
    warps: int
    stages: int
    occupancy: int
    hopper: bool = False
    least: int = 2  # units in a share; fewer would cost more in merging than they save


def choose_config(rows, capability):
    """The measured best for streams of at most `rows` rows a KV head, on a device of that compute capability."""
    if rows <= 16:
        return Config(16, 128, 4, 3, 1)
    if rows <= 64:
        return Config(64, 64, 4, 2, 2)
    if capability == 9:
        return Config(128, 128, 4, 3, 1, hopper=True)
    return Config(128, 64, 8, 3, 1)


@jit
def _attend(q, acc, peak, total, keys, values, table, head, limit, length, hole_start, hole_end, spans, first, last, clock, period, scale,
            D: tl.constexpr, BLOCK_N: tl.constexpr, PAGE_SIZE: tl.constexpr, STAGES: tl.constexpr, MASKED: tl.constexpr):
    """Online softmax over units first..last of a tile; (acc, peak, total) are the running sums, the peak in units of log2."""
    unit = unit_at(first if MASKED else turned(first, first, last, clock, period), spans, hole_end, BLOCK_N)
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
        following = tl.minimum(index + 1, last - 1)
        unit = unit_at(following if MASKED else turned(following, first, last, clock, period), spans, hole_end, BLOCK_N)
        page = tl.load(table + unit * BLOCK_N // PAGE_SIZE)
        higher = tl.maximum(peak, tl.max(score, 1) * scale)
        weight = tl.exp2(score * scale - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(weight, 1)
        acc = tl.dot(weight.to(v.dtype), v, acc * shrink[:, None])
        peak = higher
    return acc, peak, total


@jit(do_not_specialize=COUNTS)
def _attention_kernel(q, keys, values, out, partials, table, lengths, holes, query_start, streams, per_stream, table_width, scale, LEAST,
                      KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, PAGE_SIZE: tl.constexpr, BLOCK_M: tl.constexpr,
                      BLOCK_N: tl.constexpr, TILES: tl.constexpr, STAGES: tl.constexpr):
    program = tl.program_id(0)
    tile = tl.arange(0, TILES)
    _, ends, per_head, share = schedule(
        tile, lengths, holes, query_start, streams, per_stream, tl.num_programs(0), LEAST, KV_HEADS, GROUP, BLOCK_M, BLOCK_N)
    origin = program * share
    stop = tl.minimum(origin + share, per_head * KV_HEADS)
    at = origin
    while at < stop:
        head = at // per_head
        mine = tl.sum((ends <= at - head * per_head).to(tl.int32), 0)
        stream, start, new, length, hole_start, hole_end, row, units, spans = tile_at(
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
        clock, period = at - origin, tl.minimum(stop - origin, units)
        acc, peak, total = _attend(block_q, acc, peak, total, keys, values, row_table, head, limit, length, hole_start, hole_end, spans,
                                   at - begin, tl.minimum(until, clean) - begin, clock, period, scale, D, BLOCK_N, PAGE_SIZE, STAGES,
                                   False)
        acc, peak, total = _attend(block_q, acc, peak, total, keys, values, row_table, head, limit, length, hole_start, hole_end, spans,
                                   tl.maximum(at, clean) - begin, until - begin, clock, period, scale, D, BLOCK_N, PAGE_SIZE, STAGES,
                                   True)

        if (at == begin) & (until == end):
            tl.store(out + place, (acc / total[:, None]).to(out.dtype.element_ty), real[:, None])
        else:
            slot = 2 * program + (begin > origin).to(tl.int32)
            partial = partials + slot.to(tl.int64) * (BLOCK_M * (D + 2))
            inside = tl.arange(0, BLOCK_M)
            tl.store(partial + inside[:, None] * D + columns[None, :], acc)
            tl.store(partial + BLOCK_M * D + inside, peak)
            tl.store(partial + BLOCK_M * (D + 1) + inside, total)
        at = until


@jit
def _parts(mine, head, lengths, holes, query_start, streams, per_stream, programs, LEAST, KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
           BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TILES: tl.constexpr):
    """The programs first..last that share tile `mine` of a head, their share, and where the tile begins."""
    tile = tl.arange(0, TILES)
    units, ends, per_head, share = schedule(tile, lengths, holes, query_start, streams, per_stream, programs, LEAST, KV_HEADS,
                                              GROUP, BLOCK_M, BLOCK_N)
    end = head * per_head + tl.sum(tl.where(tile == mine, ends, 0), 0)
    begin = end - tl.sum(tl.where(tile == mine, units, 0), 0)
    return begin // share, tl.where(begin < end, (end - 1) // share, begin // share), share, begin


@jit(do_not_specialize=COUNTS)
def _merge_kernel(out, partials, lengths, holes, query_start, streams, per_stream, programs, LEAST, KV_HEADS: tl.constexpr,
                  GROUP: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TILES: tl.constexpr,
                  ROWS: tl.constexpr):
    """Merge the partial sums of ROWS rows of a tile that a few programs shared, one program after another."""
    mine, head = tl.program_id(0), tl.program_id(1)
    first, last, share, begin = _parts(mine, head, lengths, holes, query_start, streams, per_stream, programs, LEAST, KV_HEADS, GROUP,
                                       BLOCK_M, BLOCK_N, TILES)
    if first == last:
        return
    inside = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
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


@jit(do_not_specialize=COUNTS)
def _merge_token_kernel(out, partials, lengths, holes, query_start, streams, per_stream, programs, LEAST, KV_HEADS: tl.constexpr,
                        GROUP: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TILES: tl.constexpr,
                        PARTS: tl.constexpr):
    """Merge the partial sums of one row of a one-token tile, PARTS programs at a time: all programs may have shared it."""
    stream, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    first, last, share, begin = _parts(stream, head, lengths, holes, query_start, streams, per_stream, programs, LEAST, KV_HEADS, GROUP,
                                       BLOCK_M, BLOCK_N, TILES)
    if first == last:
        return
    columns = tl.arange(0, D)
    acc = tl.zeros([D], tl.float32)
    peak = tl.full([], -1e30, tl.float32)
    total = tl.zeros([], tl.float32)
    for some in range(first, last + 1, PARTS):
        program = some + tl.arange(0, PARTS)
        real = program <= last
        slot = 2 * program + (begin > program * share).to(tl.int32)
        partial = partials + slot.to(tl.int64) * (BLOCK_M * (D + 2))
        values = tl.load(partial[:, None] + row * D + columns[None, :], real[:, None], 0.0)
        peaks = tl.load(partial + BLOCK_M * D + row, real, -1e30)
        totals = tl.load(partial + BLOCK_M * (D + 1) + row, real, 0.0)
        higher = tl.maximum(peak, tl.max(peaks, 0))
        shrink, weight = tl.exp2(peak - higher), tl.exp2(peaks - higher)
        acc = acc * shrink + tl.sum(values * weight[:, None], 0)
        total = total * shrink + tl.sum(totals * weight, 0)
        peak = higher
    where = (tl.load(query_start + stream).to(tl.int64) * KV_HEADS + head) * GROUP + row
    tl.store(out + where * D + columns, (acc / total).to(out.dtype.element_ty))


@cache
def device_facts(device):
    """(multiprocessors, compute capability) of a CUDA device; the interpreter on a CPU gets a few programs, enough to share tiles."""
    if device.type != "cuda":
        return 3, 0
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count, properties.major


def runs_on_triton(q, key_pages):
    """Whether the kernels take these tensors: half precision on CUDA, head dims of 64 or 128. The rest goes to the twins."""
    half = q.dtype in (torch.bfloat16, torch.float16) and key_pages.dtype == q.dtype
    return half and q.shape[-1] in (64, 128) and triton_or_twin(q.device.type) == "triton" and q.is_contiguous()


def describe(pages, config):
    """A descriptor that copies BLOCK_N slots of one KV head at a time out of pages (N, 128, K, D)."""
    flat, block = pages.view(-1, pages.shape[2] * pages.shape[3]), [config.block_n, pages.shape[3]]
    if config.hopper:
        return TileDescriptor.from_tensor(flat, block, TILE_LAYOUT)
    return TensorDescriptor.from_tensor(flat, block)


def paged_attention(q, key_pages, value_pages, block_table, lengths, holes, query_start, longest, config=None):
    """q (T, H, D) over pages (N, 128, K, D): (T, H, D). `longest`, a host int, bounds the new tokens of a stream; it and the shapes alone
    fix the launch, so a captured graph stays right when the device tensors change."""
    heads, dim = q.shape[1:]
    kv_heads = key_pages.shape[2]
    group, streams = heads // kv_heads, lengths.shape[0]
    processors, capability = device_facts(q.device)
    config = config or choose_config(longest * group, capability)
    per_stream = triton.cdiv(longest * group, config.block_m)
    tiles = max(128, triton.next_power_of_2(streams * per_stream))
    programs = processors * config.occupancy
    out = torch.empty_like(q)
    partials = torch.empty(2 * programs * config.block_m * (dim + 2), dtype=torch.float32, device=q.device)
    shape = dict(KV_HEADS=kv_heads, GROUP=group, D=dim, BLOCK_M=config.block_m, BLOCK_N=config.block_n, TILES=tiles)
    kernel = hopper_kernel if config.hopper else _attention_kernel
    kernel[(programs,)](
        q, describe(key_pages, config), describe(value_pages, config), out, partials, block_table, lengths, holes, query_start, streams,
        per_stream, block_table.stride(0), LOG2_E * dim**-0.5, config.least, **shape, PAGE_SIZE=PAGE,
        STAGES=config.stages, num_warps=config.warps,
    )
    merged = (out, partials, lengths, holes, query_start, streams, per_stream, programs, config.least)
    if longest == 1:
        _merge_token_kernel[(streams, kv_heads, group)](*merged, **shape, PARTS=64, num_warps=4)
    else:
        rows = min(16, config.block_m)
        _merge_kernel[(streams * per_stream, kv_heads, config.block_m // rows)](*merged, **shape, ROWS=rows, num_warps=4)
    return out
