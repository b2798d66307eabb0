"""One self-contained HTML page of a run: headline numbers, the gate over time, replies and frames."""

import base64
import html
import io

from . import __version__
from .watching import percentile

STYLE = """
:root { color-scheme: light; --ink: #1b2430; --quiet: #667085; --line: #e4e7ec; --speak: #0b8457; --ask: #2f5fd0; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 32px 24px 64px; color: var(--ink); background: #fff;
       font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: 26px; } h2 { margin: 36px 0 12px; font-size: 18px; }
.about { color: var(--quiet); margin: 4px 0 20px; overflow-wrap: anywhere; }
.stopped { padding: 10px 14px; border-left: 4px solid #c4320a; background: #fff4ed; overflow-wrap: anywhere; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
.numbers div { border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.numbers b { display: block; font-size: 24px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.numbers span { color: var(--quiet); font-size: 13px; }
svg { width: 100%; height: auto; display: block; }
.events { list-style: none; margin: 0; padding: 0 0 0 20px; border-left: 2px solid var(--line); }
.events li { position: relative; display: flex; gap: 16px; align-items: flex-start; padding: 10px 0; }
.events li::before { content: ""; position: absolute; left: -27px; top: 18px; width: 12px; height: 12px; border-radius: 50%;
                     background: var(--speak); }
.events li.ask::before { background: var(--ask); }
.events img { width: 160px; border-radius: 6px; flex: none; }
.events p { margin: 2px 0 0; overflow-wrap: anywhere; } .events .ask p { color: var(--ask); font-style: italic; }
time, .fact { color: var(--quiet); font-size: 13px; font-variant-numeric: tabular-nums; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 10px; }
figure { margin: 0; } figure img { width: 100%; aspect-ratio: 4 / 3; object-fit: cover; display: block; border-radius: 6px 6px 0 0; }
figure .meter { height: 6px; background: var(--line); border-radius: 0 0 6px 6px; overflow: hidden; }
figure .meter i { display: block; height: 100%; background: #98a2b3; } figure.speak .meter i { background: var(--speak); }
figcaption { color: var(--quiet); font-size: 12px; font-variant-numeric: tabular-nums; }
"""


def write_page(recording, path):
    """Write `recording` (`watching.Recording`) as one HTML file without outside references."""
    path.write_text(page(recording), encoding="utf-8")


def document(title, about, body, style=""):
    """A page of `body` (HTML) below its title and what it is about (text)."""
    about = f"<p class=about>{escape(about)} · EvoStreaming {__version__}</p>"
    head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)} · EvoStreaming</title>"
    head += f"<style>{STYLE}{style}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body><h1>{escape(title)}</h1>{about}{body}</body></html>\n"


def page(recording):
    parts = [
        f"<p class=stopped>Stopped early: {escape(recording.stopped)}</p>" if recording.stopped else "",
        f"<section class=numbers>{headline(recording)}</section>",
    ]
    if recording.turns:
        parts.append(f"<h2>Probability of speaking</h2>{chart(recording)}")
        parts.append(f"<h2>Replies</h2>{events(recording)}<h2>Frames</h2>{strip(recording)}")
    return document(recording.source, f"{recording.model} on {recording.device}", "".join(parts))


def headline(recording):
    """The tiles at the top."""
    turns = recording.turns
    tiles = [(f"{len(turns)}", "frames watched"), (f"{len(recording.spoken)}", "replies")]
    if turns:
        latencies = [turn.step.latency.total for turn in turns]
        tiles += [
            (f"{percentile(latencies, 0.5):.0f} ms", "a frame, p50"),
            (f"{percentile(latencies, 0.95):.0f} ms", "a frame, p95"),
            (f"{len(turns) / max(recording.seconds, 1e-9):.1f}", "frames a second"),
            (f"{turns[-1].step.time:.0f} s", "reached" if recording.duration is None else f"reached of {recording.duration:.0f} s"),
        ]
    return "".join(f"<div><b>{value}</b><span>{label}</span></div>" for value, label in tiles)


def chart(recording):
    """The gate over time as an inline SVG."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.4, 2.8), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    times = [turn.step.time for turn in recording.turns]
    axes.plot(times, [turn.step.probability for turn in recording.turns], color="#98a2b3", marker=".", markersize=4, linewidth=1)
    said = [turn.step for turn in recording.spoken]
    axes.plot([step.time for step in said], [step.probability for step in said], "o", color="#0b8457", markersize=7, label="reply")
    if recording.threshold is not None:
        axes.axhline(recording.threshold, color="#c4320a", linewidth=1, linestyle=(0, (4, 3)), label="threshold")
    asked = [turn.step.time for turn in recording.turns if turn.asked]
    axes.vlines(asked, 0, 1, color="#2f5fd0", linewidth=1, label="query" if asked else None)
    axes.set(ylim=(-0.04, 1.04), xlabel="seconds of video", ylabel="P(speak)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e7ec", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def events(recording):
    """Queries and replies in the order they came, each reply beside its frame."""
    items = []
    for turn in recording.turns:
        step = turn.step
        items += [f"<li class=ask><div><time>{step.time:.1f} s · asked</time><p>{escape(text)}</p></div></li>" for text in turn.asked]
        if step.speak:
            fact = f"P(speak) {step.probability:.2f} · {step.tokens} tokens · {step.latency.total:.0f} ms"
            when = f"<time>{step.time:.1f} s</time> <span class=fact>· {fact}</span>"
            items.append(f"<li>{picture(turn)}<div>{when}<p>{escape(step.text or '')}</p></div></li>")
    return f"<ol class=events>{''.join(items)}</ol>" if items else "<p class=about>Nothing was asked and nothing was said.</p>"


def strip(recording):
    """Every frame that kept its thumbnail, with a meter of the gate below it."""
    figures = [
        f"<figure class={'speak' if turn.step.speak else 'silent'}>{picture(turn)}"
        f"<div class=meter><i style='width:{100 * turn.step.probability:.0f}%'></i></div>"
        f"<figcaption>{turn.step.time:.1f} s · {turn.step.probability:.2f}</figcaption></figure>"
        for turn in recording.turns
        if turn.jpeg
    ]
    return f"<div class=strip>{''.join(figures)}</div>"


def picture(turn):
    if not turn.jpeg:
        return ""
    data = base64.b64encode(turn.jpeg).decode()
    return f"<img alt='frame at {turn.step.time:.1f} s' src='data:image/jpeg;base64,{data}'>"


def escape(text):
    return html.escape(str(text))
