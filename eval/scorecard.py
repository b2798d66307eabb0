"""The whole result of scoring two files: header, episodes, tables and floors, as one JSON-ready dictionary."""

import hashlib

from ..engine.errors import ArgumentError
from .actions import SILENCE
from .aggregate import aggregate
from .episodes import read_episodes
from .errors import SchemaError
from .floors import timing_floors
from .scoring import score_run
from .settings import DEFAULT, SPEC
from .suites.catalog import SUITES, load_suite
from .suites.commentary import against as compare_texts
from .traces import read_traces

# What a run says of itself in the `meta` of its traces and a report must repeat.
RUN_FACTS = ("model", "engine_commit", "max_new_tokens", "system_prompt_sha256")


def scorecard(episodes_path, traces_path, text_judge, settings=DEFAULT, profile="paper", allow_partial=False, against=None):
    """Score `traces_path` against `episodes_path`; a pure function of the files, the verdicts of the judge and the settings.

    against: another run's traces or another model's texts, for suites whose judge compares two. Raises SchemaError, ArgumentError.
    """
    episodes = read_episodes(episodes_path)
    traces = read_traces(traces_path, episodes)
    scores = score_run(episodes, traces, text_judge, settings)
    tables = aggregate(episodes, scores, allow_partial, settings)
    found, left_out = _official(episodes, traces, text_judge, against)
    status = {key: tables.pop(key) for key in ("episodes", "incomplete", "invalid")}
    header = {
        "spec": SPEC,
        "profile": profile,
        "run_id": next(iter(traces.values())).run_id,
        "fps": sorted({e.fps for e in episodes}),
        "delta_s": settings.delta_s,
        "lambda_s": settings.lam,
        "epsilon_s": settings.epsilon,
        "theta": settings.theta,
        "matching": settings.matching,
        "clock": settings.clock,
        "figure_lambda": settings.figure_lambda,
        "judge": text_judge.name,
        "judge_prompt_sha256": text_judge.prompt_hash,
        "silence": list(SILENCE),
        "placeholder_is_silence": settings.placeholder_is_silence,
        "episodes_sha256": sha256(episodes_path),
        "traces_sha256": sha256(traces_path),
        **({} if against is None else {"against_sha256": sha256(against)}),
        **{fact: _agreed([t.meta.get(fact) for t in traces.values()]) for fact in RUN_FACTS},
        "scored": status["episodes"],
        "incomplete": status["incomplete"] + _unscored(found) + left_out,
        "invalid": status["invalid"],
    }
    return {
        "header": header,
        "episodes": [score.row() for score in scores],
        **tables,
        "floors": timing_floors(episodes, settings),
        "official": found,
        "failed": {name: trace.err for name, trace in sorted(traces.items()) if trace.err is not None},
    }


def _official(episodes, traces, text_judge, rival):
    """The own scores of the benchmarks that are in the file, by suite, beside those of blind policies; and why some are left out."""
    result, left_out, compared = {}, [], False
    for suite in sorted({e.suite for e in episodes} & set(SUITES)):
        module = load_suite(suite)
        mine = [e for e in episodes if e.suite == suite]
        contest = rival is not None and hasattr(module, "CONTEST")
        compared = compared or contest
        try:
            scores = module.official(mine, traces, text_judge) if hasattr(module, "official") else {}
            if contest:
                scores["against"] = compare_texts(module, mine, traces, text_judge, rival)
        except (LookupError, ZeroDivisionError) as error:  # episodes that only carry the suite's name: S and E need less of them
            what = repr(error.args[0]) if isinstance(error, KeyError) else "a target that it can score"
            problem = f"its own score is left out, {what} is missing from its episodes"
            left_out.append(f"{suite}: {problem}; make them with `evostreaming episodes {suite}`")
            continue
        if hasattr(module, "BLIND"):
            scores["blind"] = module.BLIND
        if scores:
            result[suite] = scores
    if rival is not None and not compared:
        raise ArgumentError("--against is for livesports3k and infstreams, whose judges compare two models; there is none of them here")
    return result, left_out


def _unscored(found):
    counts = {suite: scores["against"]["unscored"] for suite, scores in found.items() if "against" in scores}
    return [f"{suite}: {count} comparisons are unscored" for suite, count in counts.items() if count]


def sha256(path):
    try:
        with open(path, "rb") as data:
            return hashlib.file_digest(data, "sha256").hexdigest()
    except OSError as error:
        raise SchemaError(path, "", "", f"cannot be read: {error.strerror}") from None


def _agreed(values):
    """The one value that all traces give; the list of them where they differ; None where none says."""
    distinct = sorted({str(v): v for v in values if v is not None}.items())
    return None if not distinct else distinct[0][1] if len(distinct) == 1 else [v for _, v in distinct]
