"""The primary score S and its profile `figure` (RSE-1.0 sections 7 and 7b)."""

import math

from . import assignment
from .answers import sameness

REPEAT_FACTOR = 0.5
EARLY_COST = 0.1


def tolerance(regime, fps, delta_s):
    """How many turns a response may be off its target: none for RT and BT, ceil(delta_s * fps) for FAR."""
    return math.ceil(delta_s * fps - 1e-9) if regime == "FAR" else 0


def verbosity_factor(spoken, turns):
    """1 below 40 % of the turns, then down in steps of 0.2. Integers: 2/5 and 3/5 must not depend on float rounding."""
    if turns == 0 or 5 * spoken < 2 * turns:
        return 1.0
    return max(10 - 2 * (5 * spoken // turns), 2) / 10


def primary_score(regime, stars, spoken, turns, delta, verdicts, repeated=False, matching="max"):
    """S of one query, in 0..1, or None when a verdict that it needs is missing.

    `stars` are the turns at which targets are due, `spoken` the turns with a response, `turns` the length of the span;
    `verdicts[i][j]` in 0..1 (or None) is how right response i is for target j.
    """
    near = [[abs(k - star) <= delta for star in stars] for k in spoken]
    used = [v for row, mask in zip(verdicts, near) for v, inside in zip(row, mask) if inside]
    if any(v is None for v in used):
        return None
    weights = [[v if inside else 0.0 for v, inside in zip(row, mask)] for row, mask in zip(verdicts, near)]
    if matching == "one2one":
        hit = sum(weights[i][j] for i, j in assignment.assign(weights).items())
    else:
        hit = sum(max((row[j] for row in weights), default=0.0) for j in range(len(stars)))
    score = hit / len(stars)
    if regime == "FAR":
        score *= verbosity_factor(len(spoken), turns)
        if any(k < min(stars) - delta for k in spoken):
            score -= EARLY_COST
    elif repeated:
        score *= REPEAT_FACTOR
    return min(1.0, max(0.0, score))


def is_repeated(spoken, texts, first, query):
    """Whether a response after turn `first` says what an earlier response of the span has said."""
    seen = set()
    for k, text in zip(spoken, texts):
        key = sameness(text, query)
        if k > first and key in seen:
            return True
        seen.add(key)
    return False


def figure_score(stars, spoken, delta, verdicts, total, theta=0.5, cost=0.05):
    """F of one stream: right targets minus wrong responses minus `cost` for each of the `total` responses, over the targets; or None."""
    near = [[v for v, star in zip(row, stars) if abs(k - star) <= delta] for k, row in zip(spoken, verdicts)]
    if any(v is None for row in near for v in row):
        return None
    wrong = total - len(spoken) + sum(not any(v >= theta for v in row) for row in near)
    right = sum(
        any(abs(k - star) <= delta and row[j] >= theta for k, row in zip(spoken, verdicts)) for j, star in enumerate(stars)
    )  # fmt: skip
    return min(1.0, max(0.0, (right - wrong - cost * total) / len(stars)))
