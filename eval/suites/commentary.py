"""Running commentary: what was said in a stretch of a stream, judged as one text.

The benchmarks' own judges compare it with what another model said (`pairwise.duel`).
"""

from ..judges import judge as verdict
from ..pairwise import duel
from ..records import Record, read_jsonl
from ..traces import read_traces
from .replies import percent, replies, scored


def commentary(episode, trace, begin, end):
    """Everything said from `begin` up to `end` seconds, as one text."""
    return " ".join(text for t, text in replies(episode, trace) if begin - 1e-6 <= t < end - 1e-6)


def judged(episodes, traces, judge):
    """Mean verdict, in percent, on the commentary in every target's window (0 where nothing was said); None while one is missing."""
    rows = []
    for episode, trace in scored(episodes, traces):
        for target in episode.targets:
            said = commentary(episode, trace, *target.window)
            rows.append(verdict(said, episode.queries[0], (target.answer,), judge) if said else 0.0)
    return None if None in rows else percent(rows)


def against(suite, episodes, traces, judge, rival):
    """How the run fares in the `CONTEST` of a suite's module against another: the rates of `duel`; `compared`: how many of how many texts.

    rival: path of the traces of another run of these episodes, or of another model's predictions as the benchmark publishes them.
    Raises SchemaError.
    """
    mine = [Record(row, "this run", f"prediction {i}") for i, row in enumerate(suite.predictions(episodes, traces))]
    rows = list(read_jsonl(rival))
    if rows and "episode_id" in rows[0]:
        others = suite.predictions(episodes, read_traces(rival, episodes))
        rows = [Record(row, rival, f"prediction {i}") for i, row in enumerate(others)]
    mine, other, golds = suite.passages(episodes, mine), suite.passages(episodes, rows), suite.references(episodes)
    both = [key for key in golds if key in mine and key in other]
    result = duel(suite.CONTEST, judge, [(golds[key], mine[key], other[key]) for key in both])
    return {**result, "compared": f"{len(both)}/{len(golds)}"}


def win_rate(votes):
    """Percent of the votes for a model; `votes`: for each text a pair, (it won when shown first, it won when shown second)."""
    return percent([vote for pair in votes for vote in pair])
