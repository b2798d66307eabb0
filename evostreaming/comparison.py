"""The same clip twice on one time line: the model as it came beside the model that taught itself, on the terminal and as a page."""

import time
from contextlib import ExitStack, closing
from itertools import pairwise

from rich.console import Console
from rich.text import Text

from .report import document, escape, picture
from .timeline import one_line
from .watching import Recording, thumbnail, watch

LANE = 36  # characters of a lane on a terminal
STYLE = """
.lanes { overflow-x: auto; } .lanes table { border-collapse: collapse; }
.lanes th { position: sticky; left: 0; z-index: 1; background: #fff; text-align: left; font-size: 13px; font-weight: 600;
            padding: 4px 14px 4px 0; white-space: nowrap; }
.lanes td { min-width: 92px; max-width: 92px; vertical-align: top; font-size: 12px; line-height: 1.35; padding: 4px;
            overflow-wrap: anywhere; }
.lanes img { width: 100%; display: block; border-radius: 4px; }
.lanes .event { color: var(--quiet); font-style: italic; } .lanes .ask { color: var(--ask); }
.lanes .silent { background: #f2f4f7; } .lanes .speak { background: #d9f2e6; color: var(--speak); font-weight: 600; }
"""


def compare(engines, sources, clip, html):
    """The lanes of `engines` ({name: Engine}) over a `demo.Clip` on one time line; summary and page are written however it ends."""
    console = Console(highlight=False)
    recordings = [
        Recording(clip.path.name, name, str(engine.device), source.duration) for (name, engine), source in zip(engines.items(), sources)
    ]
    console.print(heading(recordings))

    def show():
        for line in lines(recordings, clip.events):
            console.print(line, soft_wrap=True)

    try:
        record_both(recordings, engines.values(), sources, clip.query, clip.at, show)
    finally:
        console.print(summary(recordings), soft_wrap=True)
        write_comparison(recordings, clip.events, html)
        console.print(f"wrote {html}", markup=False, soft_wrap=True)


def record_both(recordings, engines, sources, query, later, show):
    """Step engines side by side over as many sources of the same video, fill their `watching.Recording`s and call `show()` after every
    frame. query, later: as for `watching.watch`. What was recorded before an exception stays."""
    began = time.perf_counter()
    with ExitStack() as opened:
        lanes = [opened.enter_context(closing(watch(engine, source, query, list(later)))) for engine, source in zip(engines, sources)]
        for both in zip(*lanes):
            for recording, (frame, turn) in zip(recordings, both):
                turn.jpeg = thumbnail(frame.pixels)
                recording.turns.append(turn)
                recording.seconds = time.perf_counter() - began
            show()


def between(events, turns):
    """For each turn the texts of the `events` ({"start", "text"}) that began since the turn before."""
    edges = [float("-inf"), *(turn.step.time for turn in turns)]
    return [[event["text"] for event in events if begin < event["start"] <= end] for begin, end in pairwise(edges)]


def heading(recordings):
    return Text(" " * 12 + "".join(f"{recording.model:<{LANE}}" for recording in recordings), "bold")


def lines(recordings, events):
    """The lines of the last frame on a terminal: what was asked, what happened since the one before, and a lane for each recording."""
    turns = [recording.turns[-1] for recording in recordings]
    clock = (f"{turns[0].step.time:8.1f} s  ", "dim")
    found = [Text.assemble(clock, (one_line(text), "cyan italic")) for text in turns[0].asked]
    found += [Text.assemble(" " * 12, (f"({text})", "dim italic")) for text in between(events, recordings[0].turns)[-1]]
    lanes = [(one_line(turn.step.text or ""), "bold green") if turn.step.speak else ("·", "dim") for turn in turns]
    return [*found, Text.assemble(clock, *((f"{text[: LANE - 2]:<{LANE}}", style) for text, style in lanes))]


def summary(recordings):
    said = ", ".join(f"{recording.model} {len(recording.spoken)} times" for recording in recordings)
    frames = len(recordings[0].turns)
    return f"{frames} frames in {recordings[0].seconds:.1f} s on {recordings[0].device} · spoke: {said}"


def write_comparison(recordings, events, path):
    """Write the lanes as one HTML file without outside references."""
    path.write_text(page(recordings, events), encoding="utf-8")


def page(recordings, events):
    turns = recordings[0].turns
    asked = "".join(f"<p class=ask>asked: {escape(text)}</p>" for turn in turns for text in turn.asked)
    tiles = [("frames watched", len(turns)), *((f"replies, {recording.model}", len(recording.spoken)) for recording in recordings)]
    numbers = "".join(f"<div><b>{value}</b><span>{escape(label)}</span></div>" for label, value in tiles)
    rows = [
        row("", [f"{picture(turn)}{turn.step.time:.0f} s" for turn in turns]),
        row("what happens", [escape("; ".join(texts)) for texts in between(events, turns)], ["event"] * len(turns)),
    ]
    for recording in recordings:
        kinds = ["speak" if turn.step.speak else "silent" for turn in recording.turns]
        rows.append(row(recording.model, [escape(turn.step.text or "") for turn in recording.turns], kinds))
    body = f"{asked}<section class=numbers>{numbers}</section><h2>Turn by turn</h2><div class=lanes><table>{''.join(rows)}</table></div>"
    return document(recordings[0].source, f"before and after self-evolution on {recordings[0].device}", body, STYLE)


def row(name, cells, kinds=None):
    kinds = kinds or [""] * len(cells)
    return f"<tr><th>{escape(name)}" + "".join(f"<td class='{kind}'>{cell}" for cell, kind in zip(cells, kinds))
