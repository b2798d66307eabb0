"""Eviction: the oldest turns leave, the sinks stay and follow, window keys never move.

Sinks are the system prompt and the text of the open queries. When turns leave, pages that are dead leave the table and the sinks' keys
are rotated forward from their pristine copy, so that they stand right before the window, as in a fresh prefill of the retained tokens.
(Rotating the window backward instead, again and again in bf16, drifts by 4.6 % in 100 evictions.) Eviction makes some air, down to 7/8 of
the limit, so that it happens every few frames and `scan` can work between two of them.
"""

from dataclasses import replace

import torch

from ..kernels.rotate import rotate
from .cache import pages_for
from .errors import TextTooLong

KEEP = 7 / 8
REBASE_AT = 65_536  # positions; float32 angles of the reference are still good to 1e-3 rad there


def make_room(context, incoming, turn, limit, rope):
    """Evict oldest turns (never `turn`) until `incoming` more tokens fit in `limit`; raises TextTooLong when they cannot."""
    if context.table.live + incoming <= limit:
        return
    sizes = {}
    for span in context.window:
        if span.turn != turn:
            sizes[span.turn] = sizes.get(span.turn, 0) + len(span.ids)
    leaving, live = set(), context.table.live
    for oldest, size in sizes.items():
        if live + incoming <= limit * KEEP:
            break
        leaving.add(oldest)
        live -= size
    sinks, moved = choose_sinks(context, leaving, limit)
    live += sum(len(span.ids) for span in sinks + moved) - sum(len(span.ids) for span in context.sinks)
    if live + incoming > limit:
        raise TextTooLong(
            f"{incoming} new tokens do not fit: max_tokens is {limit}, and {live} tokens of system prompt, open queries and current turn "
            "cannot be evicted; shorten the text, lower tokens_per_frame or load the engine with larger max_tokens"
        )
    if leaving:
        evict(context, leaving, sinks, moved, rope)


def choose_sinks(context, leaving, limit):
    """Sinks after `leaving` turns go: (old sink spans kept, query spans that move in). All queries stay open, the newest for certain;
    once sinks fill more than half of the limit the oldest queries are let go."""
    sinks = list(context.sinks)
    moved = [span for span in context.window if span.turn in leaving and span.kind == "query"]
    queries = sorted({span.turn for span in sinks + moved if span.kind == "query"})
    newest = max((span.turn for span in context.window + sinks if span.kind == "query"), default=None)
    for turn in queries:
        if sum(len(span.ids) for span in sinks + moved) <= limit // 2 or turn == newest:
            break
        sinks = [span for span in sinks if span.turn != turn or span.kind != "query"]
        moved = [span for span in moved if span.turn != turn]
    return sinks, moved


def evict(context, leaving, sinks, moved, rope):
    """Drop the spans of the `leaving` turns; `sinks` and `moved` are what stays of the text."""
    table, cache = context.table, context.table.cache
    flat = table.flat(0, table.length).to(cache.keys.device)
    kv_shape = (cache.keys.shape[0], -1, *cache.keys.shape[-2:])
    keys, values = cache.keys.view(kv_shape), cache.values.view(kv_shape)

    old = rows_of(context.sinks, lambda span: span in sinks)
    from_sinks = flat[: sum(len(span.ids) for span in context.sinks)][old]
    from_window = flat[torch.cat([torch.arange(s.slot, s.slot + len(s.ids)) for s in moved])] if moved else flat[:0]
    first_time = context.pristine is None
    pristine = torch.cat((keys[:, from_sinks] if first_time else context.pristine[:, old], keys[:, from_window]), dim=1)
    kept_values = torch.cat((values[:, from_sinks], values[:, from_window]), dim=1)
    origins = [
        span.position if first_time else origin
        for span, origin in zip(context.sinks, context.origins or [0] * len(context.sinks))
        if span in sinks
    ] + [span.position for span in moved]

    count = pristine.shape[1]
    # Pages that are written below become private first: from here on nothing can fail half-way.
    table.own(0, len(table.pages) if context.next_position > REBASE_AT else pages_for(count))
    window = [span for span in context.window if span.turn not in leaving]
    shift = table.cut(count, window[0].slot if window else table.length)
    context.window = [replace(span, slot=span.slot - shift) for span in window]
    context.sinks, context.pristine, context.origins = place(sinks + moved), pristine, origins
    sink_slots = table.flat(0, count).to(cache.keys.device)
    values[:, sink_slots] = kept_values
    settle_positions(context, rope, keys)


def rows_of(spans, wanted):
    """Indices of the wanted spans' tokens, counted over all spans: int64."""
    rows, begin = [torch.empty(0, dtype=torch.long)], 0
    for span in spans:
        if wanted(span):
            rows.append(torch.arange(begin, begin + len(span.ids)))
        begin += len(span.ids)
    return torch.cat(rows)


def place(spans):
    """The spans one after another from slot 0."""
    result, slot = [], 0
    for span in spans:
        result.append(replace(span, slot=slot))
        slot += len(span.ids)
    return result


def settle_positions(context, rope, keys):
    """Move the sinks right before the window and rotate their keys there; rebase all positions before they grow past REBASE_AT."""
    table = context.table
    extent = sum(span.extent for span in context.sinks)
    first = context.window[0].position if context.window else context.next_position
    base = first - extent
    if context.next_position > REBASE_AT:
        rebase_window(context, rope, keys, base)
        base = 0
    deltas, position = [], base
    for index, span in enumerate(context.sinks):
        context.sinks[index] = replace(span, position=position)
        deltas += [position - context.origins[index]] * len(span.ids)
        position += span.extent
    cos, sin = rope.shift(torch.tensor(deltas, dtype=torch.long, device=keys.device))
    keys[:, table.flat(0, len(deltas)).to(keys.device)] = rotate(context.pristine, cos, sin)


def rebase_window(context, rope, keys, base):
    """Rotate the window's keys back by `base` positions: once in some 65,000 positions, so rounding cannot add up."""
    slots = context.table.flat(context.table.hole[1], context.table.length).to(keys.device)
    cos, sin = rope.shift(torch.full((len(slots),), -base, dtype=torch.long, device=keys.device))
    keys[:, slots] = rotate(keys[:, slots], cos, sin)
    context.window = [replace(span, position=span.position - base) for span in context.window]
    context.next_position -= base
