"""The report of a run: `report.html` beside its episodes and traces, and `scores.json` if that is not there yet."""

from pathlib import Path

from ..engine.errors import ArgumentError
from . import report_charts as charts
from .compare import compare
from .report_compare import section
from .report_page import bar, between, escape, facts, number, percent, table, tiles, write_page
from .report_run import read_run
from .report_timelines import STYLE, timelines
from .run_folder import TRACES
from .tables import LEAD, flat

PAGE = "report.html"
REGIMES = {"BT": "backward tracing", "RT": "real time", "FAR": "forward active responding"}


def write_report(run: Path, data: Path | None = None) -> Path:
    """Write `report.html` into the folder `run` and return its path.

    `data`: the folder with the videos, for the frames of the time lines; by default the one that the run was made from, and no frames if
    it is not there. Raises SchemaError for files that are not those of a run.
    """
    found = read_run(run)
    return write_page(Path(run) / PAGE, f"{found.name} · RealStreamEval", body(found, data), STYLE)


def body(run, data=None):
    card = run.card
    header, rows = card["header"], card["episodes"]
    lead = LEAD[header["profile"]]
    suites = ", ".join(sorted({episode.suite for episode in run.episodes}))
    about = [suites, header["model"] or run.settings.get("model"), header["spec"], f"judge {header['judge']}", f"{header['clock']} clock"]
    return [
        f"<h1>{escape(run.name)}</h1><p class=about>{escape(' · '.join(str(x) for x in about if x))}</p>",
        *(f"<p class=warning>{escape(problem)}</p>" for problem in header["invalid"] + header["incomplete"]),
        headline(card, rows),
        "<h2>Scores</h2><p class=note>Percent; the line over a bar and the range are 95 % intervals from 10,000 resamples of whole videos. "
        "S: the right answer at the right turn. E: F1 of responses and targets, where every response costs. Q: how quiet it stays when "
        "nothing comes. Floors know every answer and are blind: what timing alone is worth.</p>",
        scores(card, lead),
        "<section class=charts>",
        *(charts.radar(card["tasks"], card["floors"]), charts.composition(card["tasks"]), charts.answer_rates(rows), charts.delays(rows)),
        "</section>",
        *(beside(run, folder) for folder in sorted(run.path.glob("baselines/*")) if (folder / TRACES).exists()),
        "<h2>How it behaved</h2>",
        behavior(card["tasks"]),
        official(card["official"]),
        "<h2>Single episodes</h2><p class=note>The lowest and highest of every forward task and the lowest of the others. Blue line: "
        "asked. Green: when an answer is due. Dots are responses by their time: green in a window, amber up to 5 s late, red else; hollow "
        "where the words are not those of an answer, by the lexical judge. Gray curve: probability of speaking, where the run kept it.</p>",
        *timelines(run, data),
        failed(card["failed"], run.skipped),
        "<h2>How it was made</h2>",
        made(header, run.settings),
    ]


def headline(card, rows):
    overall, regimes = card["overall"], card["regimes"]
    quiet = [row["Q"] for row in rows if row["Q"] is not None]
    answered = [row["answer_rate"] for row in rows if row["answer_rate"] is not None]
    pairs = [
        (number(overall[s]), f"overall {s}", between(overall[f"{s}_ci95"]) if overall[s] is not None else "not given") for s in ("S", "E")
    ]
    pairs += [(number(row["S"]), f"S, {REGIMES[name]}", between(row["S_ci95"])) for name, row in regimes.items() if row["S"] is not None]
    if quiet:
        pairs.append((number(100 * sum(quiet) / len(quiet)), "Q, quiet episodes", f"{len(quiet)} episodes"))
    if answered:
        pairs.append((percent(sum(answered) / len(answered)), "of the turns answered", "mean over episodes"))
    pairs.append((card["header"]["scored"], "episodes scored", f"{sum(row['turns'] for row in rows):,} turns"))
    return tiles(pairs)


def scores(card, lead):
    """Tasks by regime, then regimes, overall and floors."""
    order = [lead, *(s for s in ("S", "E") if s != lead)]
    columns = ["task", *(x for s in order for x in (s, f"{s} 95 %")), "Q", "", "episodes"]

    def cells(name, row, episodes=""):
        values = [x for s in order for x in (number(row.get(s)), between(row.get(f"{s}_ci95")))]
        return [escape(name), *values, number(row.get("Q")), bar(row.get(lead), row.get(f"{lead}_ci95")), episodes]

    rows = []
    for regime, about in REGIMES.items():
        if regime in card["regimes"]:
            tasks = [(name, row) for name, row in card["tasks"].items() if row["regime"] == regime]
            rows += [("", cells(name, row, f"{row['episodes']}/{row['expected']}")) for name, row in tasks]
            rows.append(("sum", cells(f"{regime}, {about}", card["regimes"][regime])))
    rows.append(("sum", cells("overall", card["overall"], card["header"]["scored"])))
    rows += [("floor", cells(f"FAR floor: {policy}", floor["mean"])) for policy, floor in card["floors"].items()]
    return table(columns, rows)


def beside(run, folder):
    """What this run gained over the baseline in `folder`, paired by video."""
    title = f"<h2>Beside {escape(folder.name)}</h2>"
    try:
        found = compare([read_run(folder), run])
    except ArgumentError as error:
        return f"{title}<p class=warning>{escape(error)}</p>"
    note = f"A is the baseline, B this run; {found['episodes']} episodes of {found['videos']} videos, intervals paired by video."
    warnings = "".join(f"<p class=warning>{escape(warning)}</p>" for warning in found["warnings"])
    scores = "".join(f"<h3 style='margin-top:12px'>{score}</h3>{section(found, score, ('regime', 'overall'))}" for score in ("S", "E"))
    return f"{title}<p class=note>{note}</p>{warnings}{scores}"


def behavior(tasks):
    columns = ["task", "answered", "false/min", "early", "repeats", "missed", "delay p50", "p90", "tokens/turn", "errors", "first word p50",
               "p95", "turn p50", "p95"]  # fmt: skip
    seconds = lambda value: "–" if value is None else f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"  # noqa: E731
    rows = [
        ("", [
            escape(name), percent(r["answer_rate"]), number(r["false_alarms_per_minute"], 2), percent(r["early_rate"]),
            percent(r["duplicate_ratio"]), percent(r["miss_rate"]), number(r["hit_delay_median_s"]), number(r["hit_delay_p90_s"]),
            number(r["tokens_per_turn"]), r["error_turns"], seconds(r["ttft_p50_s"]), seconds(r["ttft_p95_s"]),
            seconds(r["latency_p50_s"]), seconds(r["latency_p95_s"]),
        ])
        for name, r in tasks.items()
    ]  # fmt: skip
    # A sweep that batches streams has no latency of a single turn to tell.
    kept = [i for i in range(len(columns)) if any(cells[i] != "–" for _, cells in rows)]
    return table([columns[i] for i in kept], [(kind, [cells[i] for i in kept]) for kind, cells in rows])


def official(found):
    """The benchmarks' own scores, whatever their shape."""
    parts = [f"<h3 style='margin-top:12px'>{escape(suite)}</h3>{facts(flat(scores))}" for suite, scores in found.items()]
    return f"<h2>The benchmarks' own scores</h2>{''.join(parts)}" if parts else ""


def failed(errors, skipped):
    why = dict(errors)
    for row in skipped:
        why.setdefault(row.get("episode_id") or row.get("video") or "?", row.get("reason") or row.get("err") or "")
    rows = [("", [escape(name), f"<span style='white-space:normal'>{escape(text)}</span>"]) for name, text in why.items()]
    return f"<h2>Not run</h2>{table(['episode', 'why'], rows)}" if rows else ""


def made(header, settings):
    """Every parameter that RSE-1.0 asks a report to name, then what the run says of itself."""
    names = {"fps": "frames a second", "delta_s": "δ, seconds", "lambda_s": "λ, seconds", "epsilon_s": "ε, seconds", "theta": "θ"}
    told = [(names.get(key, key), ", ".join(map(str, value)) if isinstance(value, list) else value) for key, value in header.items()]
    run = [(f"run: {key}", value) for key, value in flat(settings) if key not in header]
    return facts(told + run)
