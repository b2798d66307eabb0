"""What a trace answered: the benchmarks' own scores look at single replies."""

from ..discretize import grid, spans
from ..responses import responses
from ..settings import DEFAULT


def replies(episode, trace):
    """`[(seconds, text)]` of everything said from the episode's first query on."""
    return [(r.t, r.text) for r in responses(trace, spans(episode), grid(episode), DEFAULT) if r.span is not None]


def routed_replies(episode, trace):
    """For each query of the episode the `[(seconds, text)]` that answer it: by its id, else because it was asked last."""
    said = responses(trace, spans(episode), grid(episode), DEFAULT)
    return [[(r.t, r.text) for r in said if r.span == i] for i in range(len(episode.queries))]


def first_replies(episode, trace):
    """For each query of the episode the text of its first reply, or None."""
    return [said[0][1] if said else None for said in routed_replies(episode, trace)]


def scored(episodes, traces):
    """The `(episode, trace)` pairs of the episodes that were run."""
    return [(e, traces[e.episode_id]) for e in episodes if e.episode_id in traces and traces[e.episode_id].err is None]


def percent(verdicts):
    """Mean of booleans or 0..1 numbers in percent; None of none."""
    return 100 * sum(verdicts) / len(verdicts) if verdicts else None
