"""The figures of a run as one JSON-ready object, and as tables for a terminal."""

import json
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .summary import summarize

# What is told of a model that was evaluated, and what it is called in tables.
SCORES = {"overall": "S", "far": "FAR S", "event": "FAR E", "rt": "RTVP S", "bt": "BT S", "quiet": "quiet Q", "offline": "offline"}


def figures(out, seconds=None):
    """Everything that is known of a run: its settings, each round's summary, scores where there are any; seconds a stage, if timed."""
    out = Path(out)
    settings = json.loads((out / "run.json").read_text())
    rounds = sorted(out.glob("round_*"), key=lambda folder: int(folder.name.removeprefix("round_")))
    return {
        "run": str(out),
        "settings": settings,
        "rounds": [summarize(folder, settings["relevance"]) for folder in rounds],
        "scores": [read_score(out / "scores" / f"round_{i}") for i in range(len(rounds) + 1)],
        "seconds": {f"round {number} {stage}": round(spent, 2) for (number, stage), spent in (seconds or {}).items()},
    }


def read_score(folder):
    """{name of `SCORES`: value} of a model that was evaluated, None where it was not."""
    if not (folder / "scores.json").exists():
        return None
    card = json.loads((folder / "scores.json").read_text())
    regime = {name: row["S"] for name, row in card["regimes"].items()}
    quiet = [row["Q"] for row in card["tasks"].values() if row["Q"] is not None]
    offline = folder / "offline.json"
    return {
        "overall": card["overall"]["S"], "far": regime.get("FAR"), "event": card["overall"]["E"], "rt": regime.get("RT"),
        "bt": regime.get("BT"), "quiet": sum(quiet) / len(quiet) if quiet else None,
        "offline": json.loads(offline.read_text()) if offline.exists() else None,
    }  # fmt: skip


def funnel(figures):
    """[(what, left, reasons of the others)] of a round's summary."""
    skipped = figures["skipped"]
    return [
        ("videos", figures["videos"], {}),
        ("classified", figures["classified"], {"broken": skipped.get("classify", 0)}),
        ("questions", figures["questions"], figures["questions_refused"]),
        ("relevant segments", figures["relevant_segments"], {"irrelevant": figures["segments"] - figures["relevant_segments"]}),
        ("trajectories made", figures["trajectories_made"], figures["trajectories_refused"]),
        ("trajectories", figures["trajectories"], {"not needed": figures["trajectories_made"] - figures["trajectories"]}),
    ]


def print_figures(told, console=None):
    console = console or Console(highlight=False)
    for number, round_figures in enumerate(told["rounds"], 1):
        table = started(f"round {number}", "left", "refused")
        for what, left, refused in funnel(round_figures):
            table.add_row(what, str(left), ", ".join(f"{count} {reason}" for reason, count in refused.items() if count))
        console.print(table)
        balance = ", ".join(f"{name} {row['trajectories']}" for name, row in round_figures["categories"].items())
        rate = round_figures["answer_rate"]
        console.print(f"{balance}, quiet {round_figures['quiet']}, offline {round_figures['offline']}; answer rate {shown(rate)}")
        if learned := round_figures["tuning"]:
            held_out = "" if learned["held_out"] is None else f", held out {learned['held_out']:.3f}"
            console.print(f"tuning: {learned['steps']} steps, loss {learned['first_loss']:.3f} to {learned['last_loss']:.3f}{held_out}")
    if any(told["scores"]):
        table = started("model", *SCORES.values())
        for number, row in enumerate(told["scores"]):
            if row:
                cells = ("-" if row[name] is None else f"{row[name]:.1f}" for name in SCORES)
                table.add_row("before" if not number else f"round {number}", *cells)
        console.print(table)
    tuned = [number for number, round_figures in enumerate(told["rounds"], 1) if round_figures["tuning"]]
    if tuned:
        console.print(f"adapter: {told['run']}/round_{tuned[-1]}/adapter", soft_wrap=True)


def shown(rate):
    return "-" if rate is None else f"{rate:.0%}"


def started(first, *columns):
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in columns:
        table.add_column(name, justify="left" if name == "refused" else "right")
    return table
