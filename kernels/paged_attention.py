"""The Triton kernels behind `append_attention` and `decode_attention`: grouped-query attention over pages.

Each program works through its part of the line of `attention_schedule`. A tile that one program holds alone is written at once. Programs
that share one leave partial sums (weighted values, peak and total of every row in float32) and count their arrivals; the last to arrive
merges the parts of all, always in the same order, and sets the count back to zero. Where tiles are few, as for one token or the tokens of a
marker, dozens have a part of each, too many for one program to read while the others have nothing to do: there a second kernel merges.
"""

from functools import cache
from typing import NamedTuple

import torch

from .attention_schedule import COUNTS, schedule, tile_at, turned, unit_at
from .hopper_attention import hopper_kernel
from .optional_triton import TensorDescriptor, TileDescriptor, gl, jit, tl, triton, triton_or_twin

PAGE = 128
LOG2_E = 1.4426950408889634
MOST = 12  # parts of a tile, on average, that the program which arrives last merges by itself
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

    @property
    def parts(self):
        """Parts that the Triton kernel merges at a time: as many as fill the registers of its threads."""
        return max(1, 16 * self.warps // self.block_m)


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
    page = tl.load(table + unit * BLOCK_N // PAGE_SIZE, first < last, 0, eviction_policy="evict_last")
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
        page = tl.load(table + unit * BLOCK_N // PAGE_SIZE, eviction_policy="evict_last")
        higher = tl.maximum(peak, tl.max(score, 1) * scale)
        weight = tl.exp2(score * scale - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(weight, 1)
        acc = tl.dot(weight.to(v.dtype), v, acc * shrink[:, None])
        peak = higher
    return acc, peak, total


@jit(do_not_specialize=COUNTS)
def _attention_kernel(q, keys, values, out, partials, arrivals, table, lengths, holes, query_start, streams, per_stream, table_width,
                      scale, LEAST, KV_HEADS: tl.constexpr, GROUP: tl.constexpr, D: tl.constexpr, PAGE_SIZE: tl.constexpr,
                      BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TILES: tl.constexpr, STAGES: tl.constexpr, PARTS: tl.constexpr):
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
        origin_of = (start.to(tl.int64) * KV_HEADS + head) * GROUP * D
        place = (token * (KV_HEADS * GROUP) + rows % GROUP)[:, None] * D + columns[None, :]
        block_q = tl.load(q + origin_of + place, real[:, None], 0.0)
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

        first, last = begin // share, (end - 1) // share
        if first == last:
            tl.store(out + origin_of + place, (acc / total[:, None]).to(out.dtype.element_ty), real[:, None])
        else:
            part, sums = _part(partials, program, begin, share, BLOCK_M, D)
            inside = tl.arange(0, BLOCK_M)
            tl.store(part + inside[:, None] * D + columns[None, :], acc, real[:, None])
            tl.store(sums + inside, peak, real)
            tl.store(sums + BLOCK_M + inside, total, real)
            if PARTS > 0:
                # One thread counts for all: this barrier puts their stores before its release; its acquire reaches their loads with the
                # count.
                tl.debug_barrier()
                arrived = tl.atomic_add(arrivals + first, 1, sem="acq_rel", scope="gpu")
                if arrived == last - first:
                    tl.store(arrivals + first, 0)  # for the next launch
                    merged = _merge(partials, begin, share, first, last, real, BLOCK_M, D, PARTS)
                    tl.store(out + origin_of + place, merged.to(out.dtype.element_ty), real[:, None])
        at = until


@jit
def _part(partials, program, begin, share, BLOCK_M: tl.constexpr, D: tl.constexpr):
    """Where a program leaves its partial sums of the tile that begins at `begin`: (values, peaks), totals BLOCK_M behind the peaks."""
    slot = 2 * program + (begin > program * share).to(tl.int32)  # the tile it begins with, or the one it ends with
    values = partials + slot.to(tl.int64) * (BLOCK_M * (D + 2))
    return values, values + BLOCK_M * D


@jit
def _merge(partials, begin, share, first, last, real, BLOCK_M: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr):
    """The attention of a tile from the parts of programs first..last, PARTS of them at a time and always in this order."""
    inside = tl.arange(0, BLOCK_M)[None, :]
    columns = tl.arange(0, D)[None, None, :]
    acc = tl.zeros([BLOCK_M, D], tl.float32)
    peak = tl.full([BLOCK_M], -1e30, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for some in range(first, last + 1, PARTS):
        program = some + tl.arange(0, PARTS)
        there = (program <= last)[:, None] & real[None, :]
        part, sums = _part(partials, program[:, None], begin, share, BLOCK_M, D)
        values = tl.load(part[:, :, None] + inside[:, :, None] * D + columns, there[:, :, None], 0.0, cache_modifier=".cg")
        peaks = tl.load(sums + inside, there, -1e30, cache_modifier=".cg")
        totals = tl.load(sums + BLOCK_M + inside, there, 0.0, cache_modifier=".cg")
        higher = tl.maximum(peak, tl.max(peaks, 0))
        shrink, weight = tl.exp2(peak - higher), tl.exp2(peaks - higher[None, :])
        acc = acc * shrink[:, None] + tl.sum(values * weight[:, :, None], 0)
        total = total * shrink + tl.sum(totals * weight, 0)
        peak = higher
    return acc / total[:, None]


@jit(do_not_specialize=COUNTS)
def _merge_rows_kernel(out, partials, lengths, holes, query_start, streams, per_stream, programs, LEAST, KV_HEADS: tl.constexpr,
                        GROUP: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TILES: tl.constexpr,
                        PARTS: tl.constexpr):
    """Merge the partial sums of one row of a stream that is one tile, PARTS programs at a time."""
    stream, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tile = tl.arange(0, TILES)
    units, ends, per_head, share = schedule(
        tile, lengths, holes, query_start, streams, per_stream, programs, LEAST, KV_HEADS, GROUP, BLOCK_M, BLOCK_N)
    end = head * per_head + tl.sum(tl.where(tile == stream, ends, 0), 0)
    begin = end - tl.sum(tl.where(tile == stream, units, 0), 0)
    first, last = begin // share, (end - 1) // share
    start = tl.load(query_start + stream)
    new = tl.load(query_start + stream + 1) - start
    if (first == last) | (row >= new * GROUP):
        return
    columns = tl.arange(0, D)
    acc = tl.zeros([D], tl.float32)
    peak = tl.full([], -1e30, tl.float32)
    total = tl.zeros([], tl.float32)
    for some in range(first, last + 1, PARTS):
        program = some + tl.arange(0, PARTS)
        real = program <= last
        part, sums = _part(partials, program, begin, share, BLOCK_M, D)
        values = tl.load(part[:, None] + row * D + columns[None, :], real[:, None], 0.0)
        peaks = tl.load(sums + row, real, -1e30)
        totals = tl.load(sums + BLOCK_M + row, real, 0.0)
        higher = tl.maximum(peak, tl.max(peaks, 0))
        shrink, weight = tl.exp2(peak - higher), tl.exp2(peaks - higher)
        acc = acc * shrink + tl.sum(values * weight[:, None], 0)
        total = total * shrink + tl.sum(totals * weight, 0)
        peak = higher
    where = ((start + row // GROUP).to(tl.int64) * KV_HEADS + head) * GROUP + row % GROUP
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


def arrival_counts(device):
    """How many int32 counts `paged_attention` needs on a device: one a program, or two where only one runs on each multiprocessor."""
    return 2 * device_facts(device)[0]


def paged_attention(q, key_pages, value_pages, block_table, lengths, holes, query_start, longest, arrivals=None, config=None):
    """q (T, H, D) over pages (N, 128, K, D): (T, H, D). `longest`, a host int, bounds the new tokens of a stream; it and the shapes alone
    fix the launch, so a captured graph stays right when the device tensors change. `arrivals` (`arrival_counts`,) int32 holds zeros, and
    does again behind the call: calls one behind the other share it. Without it the call makes its own."""
    heads, dim = q.shape[1:]
    kv_heads = key_pages.shape[2]
    group, streams = heads // kv_heads, lengths.shape[0]
    processors, capability = device_facts(q.device)
    config = config or choose_config(longest * group, capability)
    if arrivals is None:
        arrivals = torch.zeros(arrival_counts(q.device), dtype=torch.int32, device=q.device)
    per_stream = triton.cdiv(longest * group, config.block_m)
    tiles = max(128, triton.next_power_of_2(streams * per_stream))
    programs = processors * config.occupancy
    out = torch.empty_like(q)
    partials = torch.empty(2 * programs * config.block_m * (dim + 2), dtype=torch.float32, device=q.device)
    shape = dict(KV_HEADS=kv_heads, GROUP=group, D=dim, BLOCK_M=config.block_m, BLOCK_N=config.block_n, TILES=tiles)
    apart = longest == 1 or (per_stream == 1 and streams * kv_heads * MOST <= programs)
    kernel, own = (hopper_kernel, {"MERGE": not apart}) if config.hopper else (_attention_kernel, {"PARTS": 0 if apart else config.parts})
    kernel[(programs,)](
        q, describe(key_pages, config), describe(value_pages, config), out, partials, arrivals, block_table, lengths, holes, query_start,
        streams, per_stream, block_table.stride(0), LOG2_E * dim**-0.5, config.least, **shape, PAGE_SIZE=PAGE, STAGES=config.stages, **own,
        num_warps=config.warps,
    )  # fmt: skip
    if apart:
        _merge_rows_kernel[(streams, kv_heads, longest * group)](
            out, partials, lengths, holes, query_start, streams, per_stream, programs, config.least, **shape, PARTS=64, num_warps=4
        )
    return out
