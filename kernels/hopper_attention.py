"""The paged-attention tiles of 128 rows on Hopper, in Gluon: one warp copies pages, two warpgroups of 64 rows multiply.

Same shares, tiles, units and partial sums as `paged_attention`, which also merges them; only the inside of a tile differs. A warpgroup
starts the scores of the next unit before it weighs the values of the last one, so tensor cores run through the softmax (the schedule of
FlashAttention-3, section 3.2).
"""

from .attention_schedule import COUNTS, schedule, tile_at, turned, unit_at
from .optional_triton import gl, gluon, hopper


@gluon.jit
def _copy(line, cut, keys, values, k_tiles, v_tiles, bars, D: gl.constexpr, GROUP: gl.constexpr, BLOCK_N: gl.constexpr,
          STAGES: gl.constexpr, PAGE_SIZE: gl.constexpr):
    """Bring the pages of a share to shared memory, as far ahead as it has room."""
    table, lengths, holes, query_start, streams, per_stream, table_width = line
    k_full, k_free, v_full, v_free = bars
    turn = 0
    at, stop, head, mine, begin = cut
    origin = at
    while at < stop:
        stream, _, _, _, _, hole_end, _, units, spans = tile_at(
            mine, lengths, holes, query_start, streams, per_stream, GROUP, 128, BLOCK_N)
        end = begin + units
        until = gl.minimum(stop, end)
        first, clean = at - begin, gl.minimum(until - begin, spans[3])
        clock, period = at - origin, gl.minimum(stop - origin, units)
        for index in range(first, until - begin):
            taken = gl.where(index < clean, turned(index, first, clean, clock, period), index)
            unit = unit_at(taken, spans, hole_end, BLOCK_N)
            page = gl.load(table + stream * table_width + unit * BLOCK_N // PAGE_SIZE)
            where = page * PAGE_SIZE + unit * BLOCK_N % PAGE_SIZE
            stage = turn % STAGES
            phase = (turn // STAGES & 1) ^ 1
            hopper.mbarrier.wait(k_free.index(stage), phase)
            hopper.mbarrier.expect(k_full.index(stage), BLOCK_N * D * 2)
            hopper.tma.async_copy_global_to_shared(keys, [where, head * D], k_full.index(stage), k_tiles.index(stage))
            hopper.mbarrier.wait(v_free.index(stage), phase)
            hopper.mbarrier.expect(v_full.index(stage), BLOCK_N * D * 2)
            hopper.tma.async_copy_global_to_shared(values, [where, head * D], v_full.index(stage), v_tiles.index(stage))
            turn += 1
        at = gl.maximum(until, at)
        begin = end
        mine += 1
        if mine == streams * per_stream:
            mine = 0
            head += 1


@gluon.jit
def _scores(block_q, k_tiles, k_full, turn, BLOCK_N: gl.constexpr, STAGES: gl.constexpr):
    """Start q · k for the unit of this turn, once its keys are there."""
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    stage = turn % STAGES
    hopper.mbarrier.wait(k_full.index(stage), turn // STAGES & 1)
    zero = gl.zeros([64, BLOCK_N], gl.float32, layout)
    return hopper.warpgroup_mma(block_q, k_tiles.index(stage).permute((1, 0)), zero, use_acc=False, is_async=True)


@gluon.jit
def _softmax(score, peak, total, limit, hole_start, hole_end, unit, scale, BLOCK_N: gl.constexpr, MASKED: gl.constexpr):
    """One turn of the online softmax: (weight, peak, total, shrink)."""
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    if MASKED:
        slot = unit * BLOCK_N + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, layout))
        live = (slot < hole_start) | (slot >= hole_end)
        score = gl.where((slot[None, :] < limit[:, None]) & live[None, :], score, float("-inf"))
    higher = gl.maximum(peak, gl.max(score, 1) * scale)
    weight = gl.exp2(score * scale - higher[:, None])
    shrink = gl.exp2(peak - higher)
    return weight, higher, total * shrink + gl.sum(weight, 1), shrink


@gluon.jit
def _operand(weight, dtype: gl.constexpr, D: gl.constexpr):
    """Weights as the left operand of weight · v, in registers."""
    layout: gl.constexpr = gl.DotOperandLayout(0, gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16]), 2)
    return gl.convert_layout(weight.to(dtype), layout)


@gluon.jit
def _turn(block_q, weight, acc, peak, total, limit, hole_start, hole_end, unit, turn, k_tiles, v_tiles, bars, scale, D: gl.constexpr,
          BLOCK_N: gl.constexpr, STAGES: gl.constexpr, MASKED: gl.constexpr):
    """Scores of this turn's unit while the values of the one before are weighed."""
    k_full, k_free, v_full, v_free = bars
    acc_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    dtype: gl.constexpr = k_tiles.dtype
    score = _scores(block_q, k_tiles, k_full, turn, BLOCK_N, STAGES)
    before = (turn - 1) % STAGES
    hopper.mbarrier.wait(v_full.index(before), (turn - 1) // STAGES & 1)
    acc = hopper.warpgroup_mma(weight, v_tiles.index(before), acc, is_async=True)
    score = hopper.warpgroup_mma_wait(1, deps=[score])
    hopper.mbarrier.arrive(k_free.index(turn % STAGES), count=1)
    wide, peak, total, shrink = _softmax(score, peak, total, limit, hole_start, hole_end, unit, scale, BLOCK_N, MASKED)
    weight = _operand(wide, dtype, D)
    # Long true; but the assembler does not move the next wait across it, which it would put before the softmax.
    hopper.mbarrier.wait(v_full.index(before), (turn - 1) // STAGES & 1)
    acc = hopper.warpgroup_mma_wait(0, deps=[acc])
    hopper.mbarrier.arrive(v_free.index(before), count=1)
    acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, acc_layout))[:, None]
    return weight, acc, peak, total


@gluon.jit
def _multiply(half: gl.constexpr, line, cut, q, out, partials, scale, q_tile, k_tiles, v_tiles, bars, KV_HEADS: gl.constexpr,
              GROUP: gl.constexpr, D: gl.constexpr, BLOCK_N: gl.constexpr, STAGES: gl.constexpr):
    """Attention of rows 64 · half and on of every tile of a share."""
    _, lengths, holes, query_start, streams, per_stream, _ = line
    k_full, k_free, v_full, v_free = bars
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BLOCK_N, 16])
    acc_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    read_layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    dtype: gl.constexpr = k_tiles.dtype
    program = gl.program_id(0)
    turn = 0
    at, stop, head, mine, begin = cut
    origin = at
    while at < stop:
        _, start, new, length, hole_start, hole_end, row, units, spans = tile_at(
            mine, lengths, holes, query_start, streams, per_stream, GROUP, 128, BLOCK_N)
        end = begin + units
        until = gl.minimum(stop, end)
        if at < until:
            row += 64 * half
            rows = row + gl.arange(0, 64, layout=gl.SliceLayout(1, read_layout))
            columns = gl.arange(0, D, layout=gl.SliceLayout(0, read_layout))
            where = ((start + gl.minimum(rows // GROUP, new - 1)).to(gl.int64) * KV_HEADS + head) * GROUP + rows % GROUP
            q_tile.store(gl.load(q + where[:, None] * D + columns[None, :], (rows < new * GROUP)[:, None], 0.0))
            hopper.fence_async_shared()
            gl.thread_barrier()

            first, last = at - begin, until - begin
            limit = length - new + 1 + gl.minimum((row + gl.arange(0, 64, layout=gl.SliceLayout(1, layout))) // GROUP, new - 1)
            peak = gl.full([64], -1e30, gl.float32, gl.SliceLayout(1, layout))
            total = gl.zeros([64], gl.float32, gl.SliceLayout(1, layout))
            score = _scores(q_tile, k_tiles, k_full, turn, BLOCK_N, STAGES)
            score = hopper.warpgroup_mma_wait(0, deps=[score])
            hopper.mbarrier.arrive(k_free.index(turn % STAGES), count=1)
            # The first unit's mask leaves a clean unit whole wherever in the tile's clean units the copies began.
            wide, peak, total, _ = _softmax(score, peak, total, limit, hole_start, hole_end, unit_at(first, spans, hole_end, BLOCK_N),
                                            scale, BLOCK_N, True)
            weight = _operand(wide, dtype, D)
            acc = gl.zeros([64, D], gl.float32, acc_layout)
            turn += 1
            for _ in range(first + 1, gl.minimum(last, spans[3])):
                weight, acc, peak, total = _turn(q_tile, weight, acc, peak, total, limit, hole_start, hole_end, 0, turn, k_tiles,
                                                 v_tiles, bars, scale, D, BLOCK_N, STAGES, False)
                turn += 1
            for index in range(gl.maximum(first + 1, spans[3]), last):
                weight, acc, peak, total = _turn(q_tile, weight, acc, peak, total, limit, hole_start, hole_end,
                                                 unit_at(index, spans, hole_end, BLOCK_N), turn, k_tiles, v_tiles, bars, scale, D,
                                                 BLOCK_N, STAGES, True)
                turn += 1
            before = (turn - 1) % STAGES
            hopper.mbarrier.wait(v_full.index(before), (turn - 1) // STAGES & 1)
            final = unit_at(last - 1, spans, hole_end, BLOCK_N) * BLOCK_N
            if final + BLOCK_N > length:
                # Slots past the length may hold anything, and 0 * NaN is NaN. Both warpgroups write the same zeros.
                _clear(v_tiles.index(before), length - final, D, BLOCK_N)
            acc = hopper.warpgroup_mma_wait(0, deps=[hopper.warpgroup_mma(weight, v_tiles.index(before), acc, is_async=True)])
            hopper.mbarrier.arrive(v_free.index(before), count=1)

            whole = (at == begin) & (until == end)
            place = (start.to(gl.int64) * KV_HEADS + head) * GROUP
            slot = 2 * program + (begin > origin).to(gl.int32)
            _finish(acc, peak, total, whole, out + place * D, row, new * GROUP, partials + slot.to(gl.int64) * (128 * (D + 2)), half,
                    KV_HEADS, GROUP, D)
        at = gl.maximum(until, at)
        begin = end
        mine += 1
        if mine == streams * per_stream:
            mine = 0
            head += 1


@gluon.jit
def _finish(acc, peak, total, whole, out, row, rows, partial, half: gl.constexpr, KV_HEADS: gl.constexpr, GROUP: gl.constexpr,
            D: gl.constexpr):
    """Write 64 rows of results, or of partial sums when the tile has other parts."""
    layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
    inside = gl.arange(0, 64, layout=gl.SliceLayout(1, layout))
    columns = gl.arange(0, D, layout=gl.SliceLayout(0, layout))
    total = gl.convert_layout(total, gl.SliceLayout(1, layout))
    if whole:
        mine = row + inside
        place = (mine // GROUP).to(gl.int64) * (KV_HEADS * GROUP) + mine % GROUP
        gl.store(out + place[:, None] * D + columns[None, :], (acc / total[:, None]).to(out.dtype.element_ty), (mine < rows)[:, None])
    else:
        inside += 64 * half
        gl.store(partial + inside[:, None] * D + columns[None, :], acc)
        gl.store(partial + 128 * D + inside, gl.convert_layout(peak, gl.SliceLayout(1, layout)))
        gl.store(partial + 128 * (D + 1) + inside, total)


@gluon.jit
def _clear(tile, live, D: gl.constexpr, BLOCK_N: gl.constexpr):
    """Zero the rows of a tile of values from `live` on, 32 rows at a time to spare registers."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [4, 1], [1, 0])
    for part in gl.static_range(BLOCK_N // 32):
        piece = tile.slice(32 * part, 32)
        rows = 32 * part + gl.arange(0, 32, layout=gl.SliceLayout(1, layout))
        piece.store(gl.where((rows < live)[:, None], piece.load(layout), 0.0).to(tile.dtype))
    hopper.fence_async_shared()
    gl.thread_barrier()


@gluon.jit(do_not_specialize=COUNTS)
def hopper_kernel(q, keys, values, out, partials, table, lengths, holes, query_start, streams, per_stream, table_width, scale, LEAST,
                  KV_HEADS: gl.constexpr, GROUP: gl.constexpr, D: gl.constexpr, PAGE_SIZE: gl.constexpr, BLOCK_M: gl.constexpr,
                  BLOCK_N: gl.constexpr, TILES: gl.constexpr, STAGES: gl.constexpr):
    gl.static_assert(BLOCK_M == 128, "two warpgroups of 64 rows")
    program = gl.program_id(0)
    tile = gl.arange(0, TILES, layout=gl.BlockedLayout([1], [32], [4], [0]))
    all_units, ends, per_head, share = schedule(
        tile, lengths, holes, query_start, streams, per_stream, gl.num_programs(0), LEAST, KV_HEADS, GROUP, BLOCK_M, BLOCK_N)
    at = program * share
    stop = gl.minimum(at + share, per_head * KV_HEADS)
    head = at // gl.maximum(per_head, 1)
    before = ends <= at - head * per_head
    mine = gl.sum(before.to(gl.int32), 0)
    begin = head * per_head + gl.sum(gl.where(before, all_units, 0), 0)

    shared: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)
    q_tiles = gl.allocate_shared_memory(keys.dtype, [2, 64, D], shared)
    k_tiles = gl.allocate_shared_memory(keys.dtype, [STAGES, BLOCK_N, D], shared)
    v_tiles = gl.allocate_shared_memory(keys.dtype, [STAGES, BLOCK_N, D], shared)
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], hopper.mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], hopper.mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], hopper.mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], hopper.mbarrier.MBarrierLayout())
    for stage in gl.static_range(STAGES):
        hopper.mbarrier.init(k_full.index(stage), count=1)
        hopper.mbarrier.init(v_full.index(stage), count=1)
        hopper.mbarrier.init(k_free.index(stage), count=2)
        hopper.mbarrier.init(v_free.index(stage), count=2)
    hopper.fence_async_shared()
    bars = (k_full, k_free, v_full, v_free)
    cut = (at, stop, head, mine, begin)
    line = (table, lengths, holes, query_start, streams, per_stream, table_width)
    gl.warp_specialize([
        (_multiply, (0, line, cut, q, out, partials, scale, q_tiles.index(0), k_tiles, v_tiles, bars, KV_HEADS, GROUP, D,
                     BLOCK_N, STAGES)),
        (_multiply, (1, line, cut, q, out, partials, scale, q_tiles.index(1), k_tiles, v_tiles, bars, KV_HEADS, GROUP, D,
                     BLOCK_N, STAGES)),
        (_copy, (line, cut, keys, values, k_tiles, v_tiles, bars, D, GROUP, BLOCK_N, STAGES, PAGE_SIZE)),
    ], [4, 1], [240, 24])
