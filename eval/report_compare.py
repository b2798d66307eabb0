"""A comparison of runs as a table for a terminal and as a page."""

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .compare import SCORES
from .report_page import LINE, QUIET, SERIES, chart, escape, facts, table, write_page

LONG = {"S": "S, right at the right turn", "E": "E, F1 of responses and targets", "Q": "Q, quiet where nothing comes"}


def print_comparison(found, console):
    """A table for every run but the first: its means beside those of the first, and what tells them apart."""
    for i, run in enumerate(found["runs"]):
        console.print(f"{letter(i)}  {run['run_id']}  {run['path']}", markup=False, soft_wrap=True, highlight=False)
    console.print(f"{found['episodes']} episodes of {found['videos']} videos, paired by video", highlight=False)
    for i in range(1, len(found["runs"])):
        console.print(beside_first(found["rows"], i))


def beside_first(rows, i):
    """Run `i` and the first. Names give way where the terminal is narrow, numbers never."""
    lines = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    lines.add_column("", overflow="fold")
    for name in ("A", letter(i), f"{letter(i)} - A", "95 %", "p"):
        lines.add_column(name, justify="right", no_wrap=True)
    for score in SCORES:
        for row in (row for row in rows if row["score"] == score):
            first, own, change = row["values"][0], row["values"][i], row["differences"][i]
            cells = (f"{first:.1f}", f"{own:.1f}", f"{change['mean']:+.1f}", interval(change), chance(change))
            lines.add_row(f"{score} {row['name']}", *cells, style="bold" if row["kind"] != "task" else None)
        lines.add_section()
    return lines


def write_comparison(found, path):
    """The same as one self-contained HTML page. Returns its path."""
    runs = found["runs"]
    body = [
        f"<h1>{escape(' · '.join(run['run_id'] for run in runs))}</h1>",
        f"<p class=about>{found['episodes']} episodes of {found['videos']} videos that all runs have scored</p>",
        *(f"<p class=warning>{escape(warning)}</p>" for warning in found["warnings"]),
        facts([(letter(i), f"{run['run_id']} ({run['path']})") for i, run in enumerate(runs)]),
        "<p class=note>Percent. Intervals are 95 %, paired: 10,000 draws of whole videos, the same for all runs. A difference is printed "
        "in color where its interval leaves zero out; with many rows some do by chance.</p>",
        *(f"<h2>{LONG[score]}</h2>{section(found, score)}" for score in SCORES),
    ]
    return write_page(path, "Comparison · RealStreamEval", body)


def section(found, score, kinds=("task", "regime", "overall")):
    """Chart and table of one score; "–" where no run has it."""
    rows = [row for row in found["rows"] if row["score"] == score and row["kind"] in kinds]
    return f"<section class=charts>{forest(rows, found['runs'])}{numbers(rows, found['runs'])}</section>" if rows else "<p>–</p>"


def numbers(rows, runs):
    names = [letter(i) for i in range(len(runs))]
    columns = ["", *names, *(x for name in names[1:] for x in (f"{name} − A", "95 %", "p"))]
    lines = []
    for row in rows:
        cells = [escape(row["name"]), *(f"{value:.1f}" for value in row["values"])]
        for difference in row["differences"][1:]:
            mean = f"<span class={verdict(difference)}>{difference['mean']:+.1f}</span>"
            cells += [mean, interval(difference), escape(chance(difference))]
        lines.append(("" if row["kind"] == "task" else "sum", cells))
    return table(columns, lines)


def forest(rows, runs):
    """Differences from the first run, with their intervals."""
    others = len(runs) - 1

    def draw(axes):
        for i in range(others):
            for y, row in enumerate(rows[::-1]):
                difference, at = row["differences"][i + 1], y + 0.16 * ((others - 1) / 2 - i)
                low, high = difference["ci95"] or (difference["mean"], difference["mean"])
                axes.plot([low, high], [at, at], color=SERIES[i % len(SERIES)], linewidth=2)
                label = f"{letter(i + 1)} − A" if y == 0 else None
                axes.plot(difference["mean"], at, "o", color=SERIES[i % len(SERIES)], markersize=6, label=label)
        axes.axvline(0, color=QUIET, linewidth=1)
        axes.set_yticks(range(len(rows)), [row["name"] for row in rows[::-1]])
        axes.set(ylim=(-0.6, len(rows) - 0.4), xlabel="difference, percentage points")
        axes.grid(axis="x", color=LINE)
        axes.tick_params(axis="y", length=0)
        axes.figure.legend(loc="outside upper right", ncols=min(others, 4), frameon=False, fontsize=9)

    return chart(draw, (5.2, 1.1 + 0.3 * len(rows)))


def verdict(difference):
    low, high = difference["ci95"] or (0, 0)
    return "better" if low > 0 else "worse" if high < 0 else "same"


def interval(difference):
    return f"{difference['ci95'][0]:+.1f} … {difference['ci95'][1]:+.1f}" if difference["ci95"] else "-"


def chance(difference):
    return "-" if difference["p"] is None else "<.001" if difference["p"] < 0.001 else f"{difference['p']:.3f}"


def letter(i):
    """A for the first run, B for the second; after Z come two letters."""
    return chr(65 + i) if i < 26 else letter(i // 26 - 1) + letter(i % 26)
