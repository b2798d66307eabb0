"""How paged attention cuts its work, computed on the device so that no launch depends on how long a context is.

A tile is BLOCK_M rows of one KV head of one stream; a row is one (new token, query head of the group). A unit is BLOCK_N consecutive slots,
at most one page. All units of all tiles, head by head, form one line, cut into equal shares, one a program (stream-K). Each program finds
its share from `lengths`, `holes` and `query_start`, so neither grid nor arguments change as contexts grow, and a CUDA graph needs no new
capture. Within a tile the clean units, which every row sees whole, come first; units at an edge of the hole and at the causal tail follow.
"""

from .optional_triton import jit, tl

# Numbers that change from batch to batch: a value of 1 or 16 must not mean another compilation in the middle of a stream.
COUNTS = ("streams", "per_stream", "programs", "table_width", "LEAST")


@jit
def spans_of(length, new, hole_start, hole_end, first, last, BLOCK_N: tl.constexpr):
    """Units of the tile of tokens first..last of `new`, as (clean sinks, window start, clean end, clean, edges, all), counted in units."""
    hole_end = tl.where(hole_end > hole_start, hole_end, 0)  # an empty hole may stand anywhere
    hole_start = tl.minimum(hole_start, hole_end)
    sinks = hole_start // BLOCK_N
    window = (hole_end + BLOCK_N - 1) // BLOCK_N
    left = (hole_start % BLOCK_N > 0).to(tl.int32)
    right = ((hole_end % BLOCK_N > 0) & ((left == 0) | (hole_end // BLOCK_N != sinks))).to(tl.int32)
    clean_end = tl.maximum((length - new + first + 1) // BLOCK_N, window)
    end = tl.maximum((length - new + last + BLOCK_N) // BLOCK_N, clean_end)
    clean = sinks + clean_end - window
    return sinks, window, clean_end, clean, left + right, clean + left + right + end - clean_end


@jit
def tile_at(index, lengths, holes, query_start, streams, per_stream, GROUP: tl.constexpr, BLOCK_M: tl.constexpr,
            BLOCK_N: tl.constexpr):
    """Tile `index` of a head, or a tensor of them: (stream, start, new, length, hole start, hole end, first row, units, spans)."""
    stream, row = index // per_stream, index % per_stream * BLOCK_M
    real = stream < streams
    start = tl.load(query_start + stream, real, 0)
    new = tl.load(query_start + stream + 1, real, 0) - start
    length = tl.load(lengths + stream, real, 0)
    hole_start, hole_end = tl.load(holes + 2 * stream, real, 0), tl.load(holes + 2 * stream + 1, real, 0)
    last = tl.minimum((row + BLOCK_M - 1) // GROUP, new - 1)
    spans = spans_of(length, new, hole_start, hole_end, row // GROUP, last, BLOCK_N)
    units = tl.where(row // GROUP < new, spans[5], 0)
    return stream, start, new, length, hole_start, hole_end, row, units, spans


@jit
def schedule(tile, lengths, holes, query_start, streams, per_stream, programs, LEAST, KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
             BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """For all tiles of a head: their units, where they end on the head's line, the length of the line; then the share of a program."""
    _, _, _, _, _, _, _, units, _ = tile_at(tile, lengths, holes, query_start, streams, per_stream, GROUP, BLOCK_M, BLOCK_N)
    per_head = tl.sum(units, 0)
    share = tl.maximum((per_head * KV_HEADS + programs - 1) // programs, LEAST)
    return units, tl.cumsum(units, 0), per_head, share


@jit
def unit_at(index, spans, hole_end, BLOCK_N: tl.constexpr):
    """The unit of slots that is the tile's `index`-th."""
    sinks, window, clean_end, clean, edges, _ = spans
    edge = index - clean
    at_edge = tl.where(edge == edges - 1, tl.where(hole_end % BLOCK_N > 0, hole_end // BLOCK_N, sinks), sinks)
    masked = tl.where(edge < edges, at_edge, clean_end + edge - edges)
    return tl.where(index < clean, tl.where(index < sinks, index, index - sinks + window), masked)


@jit
def turned(index, first, last, clock, period):
    """The order in which a program takes units first..last of a tile: cyclic, so that unit u comes at a time that is u modulo `period`.

    Programs on tiles of one KV head read the same pages. In step they find them in the L2 cache; started at the edges of their shares they
    would come by one after another, with all other pages read in between. `clock` counts the units the program has done.
    """
    count = tl.maximum(last - first, 1)
    start = ((clock - first) % period + period) % period
    start = tl.where(start < count, start, 0)
    return first + (index - first + start) % count
