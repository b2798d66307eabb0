"""The event score E, the class of every response, and Q of quiet episodes (RSE-1.0 section 8)."""

from dataclasses import dataclass

from . import assignment

CLASSES = ("hit", "unsolicited", "repeat", "early", "wrong", "spurious", "unscored")


@dataclass(frozen=True, slots=True)
class Event:
    """`score`, `precision` and `recall` in 0..1, or None when a verdict that they need is missing.

    `match` is `{response: goal}`, `classes` one of `CLASSES` for each response.
    """

    score: float | None
    precision: float | None
    recall: float | None
    match: dict[int, int]
    classes: tuple[str, ...]


def freshness(t, a, b, epsilon=0.0, lam=5.0):
    """What an answer at `t` seconds is worth for the window [a, b]: nothing before, everything inside, fading over `lam` seconds."""
    if t < a - epsilon:
        return 0.0
    if t <= b:
        return 1.0
    return max(0.0, 1 - (t - b) / lam) if lam > 0 else 0.0


def event_score(windows, times, verdicts, solicited, duplicate, epsilon=0.0, lam=5.0, theta=0.5):
    """Score responses at `times` (seconds, ascending) against `windows` [(a, b)].

    `verdicts[i][j]` in 0..1, or None if nobody could judge; `solicited[i]`: a query was open when response i was given;
    `duplicate[i]`: it says what an earlier response said.
    """
    n, m = len(times), len(windows)
    fresh = [[freshness(t, a, b, epsilon, lam) for a, b in windows] for t in times]
    unknown = any(v is None and f > 0 for row, kernel in zip(verdicts, fresh) for v, f in zip(row, kernel))
    weights = [
        [f * v if v is not None and v >= theta else 0.0 for v, f in zip(row, kernel)] for row, kernel in zip(verdicts, fresh)
    ]  # fmt: skip
    # Among equal matchings the one with responses close to the start of their windows, so that hit delays are well defined.
    match = assignment.assign(weights, [[round(10 * (t - a)) ** 2 for a, _ in windows] for t in times])
    matched_at = {j: times[i] for i, j in match.items()}
    classes = tuple(
        "hit" if i in match
        else "unsolicited" if not solicited[i]
        else _class(times[i], windows, verdicts[i], duplicate[i], matched_at, epsilon, lam, theta)
        for i in range(n)
    )  # fmt: skip
    if unknown:
        return Event(None, None, None, match, classes)
    hit = sum(weights[i][j] for i, j in match.items())
    return Event(2 * hit / (n + m) if n + m else 0.0, hit / n if n else 0.0, hit / m if m else 0.0, match, classes)


def _class(t, windows, verdicts, duplicate, matched_at, epsilon, lam, theta):
    right = [j for j, v in enumerate(verdicts) if v is not None and v >= theta]
    if duplicate or any(j in matched_at and matched_at[j] <= t for j in right):
        return "repeat"
    if any(t < windows[j][0] - epsilon for j in right):
        return "early"
    if any(v is None for v in verdicts):
        return "unscored"
    if any(a - epsilon <= t <= b + lam for a, b in windows):
        return "wrong"
    return "spurious"


def quiet_score(spoken, minutes):
    """Q of an episode without targets: 1 if silent, falling to 0 at two responses a minute."""
    return max(0.0, 1 - spoken / minutes / 2)
