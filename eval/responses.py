"""From a trace to responses: when each became available and which query it answers."""

from typing import NamedTuple

from .actions import parse_action
from .errors import EvoStreamingError


class Response(NamedTuple):
    """One spoken turn. `t` is in video seconds by the chosen clock, `k` the turn that `t` falls on, `span` an index or None."""

    k: int
    t: float
    text: str
    span: int | None


def responses(trace, episode_spans, turns, settings):
    """The `Response`s of a trace in order, on the grid `turns`. Those before any query have `span` None.

    A response belongs to the query that it names, else to the one asked last.
    """
    times = availability(trace, turns) if settings.clock == "wall" else None
    by_name = {s.query.qid: i for i, s in enumerate(episode_spans)}
    result = []
    for turn in trace.turns:
        if turn.silent:
            continue
        text = parse_action(turn.text, settings.placeholder_is_silence)
        if text is None:
            continue
        t = turns.time(turn.k) if times is None else times[turn.k]
        k = turn.k if times is None else turns.before(t)
        span = by_name.get(turn.qid)
        # The words were chosen at turn.k, whenever they came out: only a query asked by then can be meant.
        if span is None:
            asked = [(s.query.t_q, i) for i, s in enumerate(episode_spans) if s.first <= turn.k]
            span = max(asked)[1] if asked else None
        elif episode_spans[span].first > turn.k:
            span = None
        result.append(Response(k, t, text, span))
    return result


def availability(trace, turns):
    """When the first token of every turn is there if frames arrive in real time: turns queue behind the work of those before."""
    return [start + (first if first is not None else work) for start, first, work in _schedule(trace, turns)]


def backlog(trace, turns):
    """Seconds that each frame waits before the session gets to it, frames arriving in real time."""
    return [start - turns.time(k) for k, (start, _, _) in enumerate(_schedule(trace, turns))]


def _schedule(trace, turns):
    free = float("-inf")
    for turn in trace.turns:
        work = 0.0 if turn.dropped else turn.lat_s
        if work is None:
            raise EvoStreamingError(
                f"trace of {trace.episode_id!r}, turn {turn.k}: the wall clock needs lat_s on every turn; use the video clock instead"
            )
        start = max(turns.time(turn.k), free)
        free = start + work
        yield start, turn.ttft_s, work
