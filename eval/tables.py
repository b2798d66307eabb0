"""Scorecards as text for a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

LEAD = {"paper": "S", "event": "E", "figure": "F"}


def print_scorecard(card, console=None):
    """Scores with their floors, then the diagnostics of each task; the score of the profile comes first, with its interval."""
    console = console or Console()
    header = card["header"]
    lead = LEAD[header["profile"]]
    order = [lead, *(s for s in ("S", "E") if s != lead)]
    console.print(f"{header['spec']}, {header['run_id']}, judge {header['judge']}, {header['clock']} clock", markup=False)
    console.print(_scores(card, order))
    if card["floors"]:
        console.print("FAR rows in brackets: blind policies, every text taken for right. What timing alone is worth.", markup=False)
    console.print(_diagnostics(card))
    if card["official"]:
        console.print(_official(card["official"]))


def _scores(card, order):
    table = _table("task", "episodes", order[0], f"{order[0]} 95 %", *order[1:], "Q")
    for name, row in card["tasks"].items():
        table.add_row(name, f"{row['episodes']}/{row['expected']}", *_cells(row, order), _number(row["Q"]))
    table.add_section()
    for name, row in card["regimes"].items():
        table.add_row(name, "", *_cells(row, order), _number(row["Q"]))
    table.add_row("overall", card["header"]["scored"], *_cells(card["overall"], order), "")
    table.add_section()
    for policy, rows in card["floors"].items():
        table.add_row(f"FAR ({policy})", "", *_cells(rows["mean"], order), "")
    return table


def _diagnostics(card):
    table = _table("task", "answers", "false/min", "early", "repeats", "missed", "delay", "tok/turn")
    for name, row in card["tasks"].items():
        table.add_row(
            name, _percent(row["answer_rate"]), _number(row["false_alarms_per_minute"], 2), _percent(row["early_rate"]),
            _percent(row["duplicate_ratio"]), _percent(row["miss_rate"]), _number(row["hit_delay_median_s"]),
            _number(row["tokens_per_turn"]),
        )  # fmt: skip
    return table


def _official(found):
    table = _table("the benchmarks' own scores", "")
    for suite, scores in found.items():
        for name, value in flat(scores, suite):
            table.add_row(name, str(value))
    return table


def flat(value, name=""):
    """`[(path, text)]` of nested dictionaries."""
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in flat(inner, f"{name} · {key}" if name else key)]
    return [(name, f"{value:.2f}" if isinstance(value, float) else "–" if value is None else value)]


def _table(first, *columns):
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _cells(row, order):
    interval = row.get(f"{order[0]}_ci95")
    between = f"{interval[0]:.1f}-{interval[1]:.1f}" if interval else ""
    return _number(row.get(order[0])), between, *(_number(row.get(s)) for s in order[1:])


def _number(value, digits=1):
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value):
    return "-" if value is None else f"{value:.0%}"
