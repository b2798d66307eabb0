"""Greedy decoding of replies, batched over all streams that speak."""

from .context import Piece
from .forward import Chunk


def decode(forward, contexts, turns, rows, marker, banned, end_ids, limit):
    """Decode a reply for each context from its decision row until the turn ends or `limit` tokens are out.

    rows: (R, h) hidden rows of the decisions; turns: turn number of each context's spans; marker: ids every reply begins with; banned: ids
    the first free token may not be.
    Returns for each context (ids with the marker, number of them already in the cache).
    """
    ids = [list(marker) for _ in contexts]
    active = list(range(len(contexts)))
    if marker:
        rows = forward(contexts, [Chunk([Piece("text", turn, marker)], [], [len(marker) - 1]) for turn in turns])
    cached = [len(marker)] * len(contexts)
    logits = forward.logits(rows)
    logits[:, sorted(banned)] = float("-inf")
    while active:
        going = []
        for index, token in zip(active, logits.argmax(-1).tolist()):
            if token in end_ids:
                continue
            ids[index].append(token)
            if len(ids[index]) - len(marker) < limit:
                going.append(index)
        active = going
        if active:
            chunks = [Chunk([Piece("text", turns[index], (ids[index][-1],))], [], [0]) for index in active]
            logits = forward.logits(forward([contexts[index] for index in active], chunks))
            for index in active:
                cached[index] += 1
    return list(zip(ids, cached))
