"""From episodes to tasks, regimes and the overall score, with confidence intervals over videos (RSE-1.0 section 11)."""

from collections import Counter

import numpy as np

from .settings import DEFAULT

RESAMPLES, SEED = 10_000, 0
SCORES = ("S", "E", "F", "Q")


def aggregate(episodes, scores, allow_partial=False, settings=DEFAULT):
    """Tables `{"tasks", "regimes", "overall", "episodes", "incomplete", "invalid"}`; scores there are percent.

    The mean over episodes is a task, over tasks a regime, over regimes the overall S; the overall E is that of the FAR regime alone.
    `overall` holds None where a missing episode, a missing verdict (unless `allow_partial`) or too many error turns forbid the number.
    """
    name = task_names(episodes)
    expected = Counter(name[e.task, e.suite, e.regime] for e in episodes)
    suite = {e.episode_id: e.suite for e in episodes}
    regime_of = {name[e.task, e.suite, e.regime]: e.regime for e in episodes}
    groups = {task: [] for task in sorted(expected)}
    for score in scores:
        groups[name[score.task, suite[score.episode_id], score.regime]].append(score)

    draws = _resample(groups)
    tasks, regimes, samples = {}, {}, {}
    for task, rows in groups.items():
        means = {s: _mean([getattr(r, s) for r in rows]) for s in SCORES}
        samples[task] = {s: draws(rows, s) for s in SCORES}
        tasks[task] = {"regime": regime_of[task], "episodes": len(rows), "expected": expected[task], **_table(means, samples[task]),
                       **diagnostics(rows)}  # fmt: skip
    for regime in ("BT", "RT", "FAR"):
        members = [task for task in tasks if regime_of[task] == regime]
        if members:
            means = {s: _mean([tasks[task][s] for task in members], 1) for s in SCORES}
            samples[regime] = {s: _nanmean([samples[task][s] for task in members]) for s in SCORES}
            regimes[regime] = {"tasks": len(members), **_table(means, samples[regime], 1)}

    incomplete, invalid = _problems(episodes, scores, settings)
    known = not invalid and (allow_partial or not incomplete)
    overall = {"S": None, "E": None, "S_ci95": None, "E_ci95": None}
    if known and regimes:
        far = regimes.get("FAR", {})
        overall = {
            "S": _mean([r["S"] for r in regimes.values()], 1), "E": far.get("E"),
            "S_ci95": _interval(_nanmean([samples[r]["S"] for r in regimes])), "E_ci95": far.get("E_ci95"),
        }  # fmt: skip
    return {
        "tasks": tasks, "regimes": regimes, "overall": overall, "episodes": f"{len(scores)}/{len(episodes)}",
        "incomplete": incomplete, "invalid": invalid,
    }  # fmt: skip


def task_names(episodes):
    """`{(task, suite, regime): name}`; the bare task unless two suites or regimes share it."""
    keys = {(e.task, e.suite, e.regime) for e in episodes}
    shared = Counter(task for task, _, _ in keys)
    return {key: key[0] if shared[key[0]] == 1 else f"{key[1]}/{key[0]}/{key[2]}" for key in keys}


def diagnostics(rows):
    """What the scores do not show, pooled over the episodes `rows`; None where nothing was measured."""
    total = lambda field: sum(getattr(r, field) for r in rows)  # noqa: E731
    classes = sum((Counter(r.classes) for r in rows), Counter())
    spoken = sum(classes.values())
    pool = lambda field: [x for r in rows for x in getattr(r, field)]  # noqa: E731
    share = lambda part, whole: part / whole if whole else None  # noqa: E731
    return {
        "answer_rate": share(total("active_responses"), total("active_turns")),
        "false_alarms_per_minute": share(spoken - classes["hit"], total("minutes")),
        "early_rate": share(classes["early"], spoken),
        "duplicate_ratio": share(total("duplicates"), spoken),
        "miss_rate": share(total("missed"), total("goals")),
        "hit_delay_median_s": _percentile(pool("hit_delays"), 50),
        "hit_delay_p90_s": _percentile(pool("hit_delays"), 90),
        "tokens_per_turn": share(total("tokens"), total("turns")),
        "error_turns": total("error_turns"),
        "unscored": total("unscored"),
        "ttft_p50_s": _percentile(pool("ttft"), 50),
        "ttft_p95_s": _percentile(pool("ttft"), 95),
        "latency_p50_s": _percentile(pool("latency"), 50),
        "latency_p95_s": _percentile(pool("latency"), 95),
        "backlog_p95_s": _percentile(pool("backlog"), 95),
        "backlog_max_s": max(pool("backlog"), default=None),
        "dropped_frames": total("dropped_frames"),
        "classes": dict(sorted(classes.items())),
    }


def _problems(episodes, scores, settings):
    incomplete, invalid = [], []
    if len(scores) < len(episodes):
        incomplete.append(f"{len(episodes) - len(scores)} of {len(episodes)} episodes have no usable trace")
    unscored = sum(s.unscored for s in scores)
    if unscored:
        incomplete.append(f"{unscored} verdicts are missing: the judge was unreachable or answered rubbish")
    errors, turns = sum(s.error_turns for s in scores), sum(s.turns for s in scores)
    if turns and errors / turns > settings.max_error_share:
        invalid.append(f"{errors} of {turns} turns failed, more than {settings.max_error_share:.0%}")
    return incomplete, invalid


def _resample(groups):
    """A function `(rows, score) -> RESAMPLES means`, every call on the same draws of whole videos."""
    videos = {v: i for i, v in enumerate(sorted({r.video_id for rows in groups.values() for r in rows}))}
    rng = np.random.default_rng(SEED)
    counts = np.zeros((RESAMPLES, len(videos)))
    for row in counts if len(videos) > 1 else ():
        row[:] = np.bincount(rng.integers(0, len(videos), len(videos)), minlength=len(videos))

    def means(rows, score):
        value, weight = np.zeros(len(videos)), np.zeros(len(videos))
        for r in rows:
            x = getattr(r, score)
            if x is not None:
                value[videos[r.video_id]] += x
                weight[videos[r.video_id]] += 1
        if not weight.any() or len(videos) < 2:
            return np.full(RESAMPLES, np.nan)
        with np.errstate(invalid="ignore"):
            return (counts @ value) / (counts @ weight)

    return means


def _table(means, samples, scale=100):
    table = {}
    for score, mean in means.items():
        table[score] = None if mean is None else scale * mean
        table[f"{score}_ci95"] = None if mean is None else _interval(samples[score])
    return table


def _interval(sample):
    """Percent; None for a single video, which says nothing about others."""
    sample = sample[~np.isnan(sample)]
    return [float(x) for x in 100 * np.percentile(sample, (2.5, 97.5))] if sample.size else None


def _nanmean(samples):
    """Mean over tasks, resample by resample; a task whose videos were not drawn is left out of that resample."""
    stack = np.stack(samples)
    there = ~np.isnan(stack)
    with np.errstate(invalid="ignore"):
        return np.where(there, stack, 0).sum(0) / there.sum(0)


def _mean(values, scale=1):
    values = [v for v in values if v is not None]
    return scale * sum(values) / len(values) if values else None


def _percentile(values, q):
    return float(np.percentile(values, q)) if values else None
