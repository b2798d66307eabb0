"""Times to turns: which frame a turn sees, when a query enters, at which turn a target is due (RSE-1.0 section 3)."""

import math
from dataclasses import dataclass

from .episodes import Query

# Keeps 2.9999999 s at 1 fps on turn 3: annotation times are rounded decimals, not exact multiples.
SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Grid:
    """Turns k = 0..n-1 at `t_start + k / fps` seconds."""

    t_start: float
    fps: float
    n: int

    def time(self, k):
        return self.t_start + k / self.fps

    def before(self, t):
        """The last turn not after `t`, clipped to the episode."""
        return self._clip(math.floor((t - self.t_start) * self.fps + SLACK))

    def after(self, t):
        """The first turn not before `t`, clipped to the episode."""
        return self._clip(math.ceil((t - self.t_start) * self.fps - SLACK))

    def _clip(self, k):
        return min(max(k, 0), self.n - 1)


@dataclass(frozen=True, slots=True)
class Goal:
    """What is due at turn `k`: one target, or several of one query that fall on the same turn (the last answer counts)."""

    gids: tuple[str, ...]
    k: int
    window: tuple[float, float]
    golds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """The active turns of one query, `first`..`last` inclusive, and its goals in order of their turns."""

    query: Query
    first: int
    last: int
    goals: tuple[Goal, ...]

    @property
    def turns(self):
        return self.last - self.first + 1


def grid(episode):
    """The turns of an episode; the slack is the same as for queries, so that a query at `t_end` falls on the last turn."""
    return Grid(episode.t_start, episode.fps, math.floor((episode.t_end - episode.t_start) * episode.fps + SLACK) + 1)


def spans(episode):
    """One `Span` for each query of the episode, in the order of the episode."""
    turns = grid(episode)
    result = []
    for query in episode.queries:
        first = turns.before(query.t_q)
        goals = {}
        # Sorted, because of several answers due on one turn the last one holds.
        for target in sorted((t for t in episode.targets if t.qid == query.qid), key=lambda t: t.t_star):
            k, (a, b) = first, target.window
            if episode.regime == "FAR":
                k = max(turns.after(target.t_star), first)
            else:
                # The query rides with the last frame not after it, so an answer on that turn must not count as early.
                a, b = min(a, turns.time(first)), max(b, turns.time(first))
            gids = (target.gid,)
            if k in goals:
                gids, a, b = goals[k].gids + gids, min(a, goals[k].window[0]), max(b, goals[k].window[1])
            goals[k] = Goal(gids, k, (a, b), (target.answer, *target.aliases))
        result.append(Span(query, first, turns.n - 1, tuple(goals[k] for k in sorted(goals))))
    return result
