"""report.html of a run: the funnel, balance and variety of every round, some trajectories as frames over their time line, loss, scores."""

import base64
import html
import io
from pathlib import Path

from ..engine.errors import EvoStreamingError
from ..eval.journal import write_whole
from .rows import read_rows
from .summary import asked, kind
from .tables import SCORES, figures, funnel
from .videos import read_frames
from .wording import CATEGORIES

STRIPS, FRAMES = 2, 24  # trajectories shown of each category, and frames of each at most

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1c2330;background:#fbfbfd}
h1{font-size:1.6rem}h2{margin-top:2.2rem;border-bottom:1px solid #d8dce4}table{border-collapse:collapse;margin:.6rem 0}
td,th{padding:.2rem .8rem .2rem 0;text-align:left;vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{display:inline-block;height:.7rem;background:#4f7cc4;border-radius:2px;vertical-align:middle}.dim{color:#6b7385}
.strip{display:flex;gap:3px;overflow-x:auto;margin:.3rem 0 1.4rem}.turn{flex:0 0 4.6rem;font-size:.7rem;line-height:1.25}
.turn img{width:100%;display:block;border-radius:3px;border-bottom:4px solid #d8dce4}.turn.spoke img{border-color:#d97a2b}
.turn.asked img{outline:2px solid #4f7cc4}.turn b{color:#b35c12}svg{max-width:100%;height:auto}
"""


def write_report(out):
    """Write the page into the folder of a run; returns its path. Raises RunError when the folder cannot be read or written."""
    out = Path(out)
    told = figures(out)
    parts = [f"<h1>Self-evolution of {esc(told['settings']['model'])}</h1>", settings_line(told["settings"]), scores(told["scores"])]
    for number, round_figures in enumerate(told["rounds"], 1):
        folder = out / f"round_{number}"
        parts += [f"<h2>Round {number}</h2>", funnel_table(round_figures), balance(round_figures), losses(folder)]
        parts.append(samples(folder, Path(told["settings"]["videos"]), told["settings"]["fps"]))
    page = f"<!doctype html><meta charset=utf-8><title>Self-evolution</title><style>{STYLE}</style>{''.join(parts)}"
    write_whole(out / "report.html", page.encode())
    return out / "report.html"


def esc(text):
    return html.escape(str(text))


def settings_line(settings):
    shown = {name: value for name, value in settings.items() if name not in ("model", "tuning")} | settings["tuning"]
    return f"<p class=dim>{', '.join(f'{esc(name)} {esc(value)}' for name, value in shown.items())}</p>"


def scores(found):
    if not any(found):
        return "<p class=dim>Not evaluated: run again with --evaluate.</p>"
    first = next(row for row in found if row)
    lines = ["<h2>Scores</h2><table><tr><th>model", *(f"<th class=n>{name}" for name in SCORES.values())]
    for number, row in enumerate(found):
        if row:
            lines.append(f"<tr><td>{'before' if not number else f'round {number}'}")
            lines += [f"<td class=n>{score(row[name], first[name], row is first)}" for name in SCORES]
    return "".join([*lines, "</table>"])


def score(value, before, alone):
    if value is None:
        return "-"
    return f"{value:.1f}" if alone or before is None else f"{value:.1f} <span class=dim>{value - before:+.1f}</span>"


def funnel_table(round_figures):
    rows = funnel(round_figures)
    most = max(left for _, left, _ in rows) or 1
    lines = ["<table><tr><th>stage<th class=n>left<th><th>refused"]
    for what, left, refused in rows:
        why = ", ".join(f"{count} {esc(reason)}" for reason, count in refused.items() if count)
        bar = f'<span class=bar style="width:{12 * left / most:.2f}rem"></span>'
        lines.append(f"<tr><td>{what}<td class=n>{left}<td>{bar}<td class=dim>{why}")
    return "".join([*lines, "</table>"])


def balance(round_figures):
    lines = ["<table><tr><th>category<th class=n>trajectories<th class=n>replies"]
    for name, row in round_figures["categories"].items():
        lines.append(f"<tr><td>{name}<td class=n>{row['trajectories']}<td class=n>{row['replies']}")
    lines.append(f"<tr><td>quiet<td class=n>{round_figures['quiet']}<td class=n>0")
    lines.append(f"<tr><td>offline<td class=n>{round_figures['offline']}<td class=n>{round_figures['offline']}</table>")
    lines.append(f"<p>Answer rate {share(round_figures['answer_rate'])}")
    for what, found in round_figures["distinct"].items():
        lines.append(f"; {what}: distinct-1 {share(found['distinct_1'])}, distinct-2 {share(found['distinct_2'])}")
    return "".join([*lines, ".</p>"])


def share(value):
    return "-" if value is None else f"{value:.1%}"


def losses(folder):
    """Loss over the steps of tuning, with the held-out loss as dots."""
    rows = read_rows(folder / "losses.jsonl")
    if len(rows) < 2:
        return ""
    most = max(max(row["loss"], row.get("held_out", 0)) for row in rows) or 1
    x, y = (lambda step: 40 + 640 * step / rows[-1]["step"]), (lambda loss: 170 - 150 * loss / most)
    line = " ".join(f"{x(row['step']):.1f},{y(row['loss']):.1f}" for row in rows)
    dots = "".join(f'<circle cx="{x(r["step"]):.1f}" cy="{y(r["held_out"]):.1f}" r="3" fill="#d97a2b"/>' for r in rows if "held_out" in r)
    return (
        f'<svg viewBox="0 0 700 200" width="700"><polyline points="{line}" fill="none" stroke="#4f7cc4" stroke-width="1.5"/>{dots}'
        f'<line x1="40" y1="170" x2="680" y2="170" stroke="#9aa3b2"/><text x="0" y="24" font-size="11">{most:.2f}</text>'
        f'<text x="0" y="174" font-size="11">0</text><text x="40" y="190" font-size="11">loss of {rows[-1]["step"]} steps; '
        f"dots: trajectories held out</text></svg>"
    )


def samples(folder, videos, fps):
    """Some trajectories of every category, quiet and offline ones: frames over what was asked and said."""
    rows, parts = read_rows(folder / "trajectories.jsonl"), []
    for name in (*CATEGORIES, "quiet", "offline"):
        mine = [row for row in rows if kind(row) == name]
        for row in mine[:: max(len(mine) // STRIPS, 1)][:STRIPS]:
            parts.append(strip(row, videos, fps, name))
    return "".join(["<h3>Samples</h3>", *parts]) if parts else ""


def strip(row, videos, fps, name):
    question = row["turns"][asked(row)]["query"]
    try:
        frames, times = read_frames(videos / row["video"], fps)
    except EvoStreamingError as error:
        return f"<p>{esc(row['id'])}: {esc(error)}</p>"
    cells = []
    for turn in shown(row["turns"]):
        kind = "turn" + (" spoke" if turn["reply"] else "") + (" asked" if "query" in turn else "")
        picture = frames[min(range(len(times)), key=lambda i: abs(times[i] - turn["t"]))]
        said = f"<b>{esc(turn['reply'])}</b>" if turn["reply"] else ""
        cells.append(f'<div class="{kind}"><img src="{jpeg(picture)}" alt="">{turn["t"]:g} s {said}</div>')
    return f"<p><b>{name}</b> {esc(question)} <span class=dim>{esc(row['id'])}</span></p><div class=strip>{''.join(cells)}</div>"


def shown(turns):
    """At most FRAMES turns: those that ask or speak, and others evenly between."""
    must = [i for i, turn in enumerate(turns) if turn["reply"] or "query" in turn]
    others = [i for i in range(len(turns)) if i not in must]
    room = max(FRAMES - len(must), 0)
    others = others[:: -(-len(others) // room)] if room and others else []
    return [turns[i] for i in sorted([*must, *others])]


def jpeg(frame):
    from PIL import Image

    picture, held = Image.fromarray(frame if not hasattr(frame, "numpy") else frame.cpu().numpy()), io.BytesIO()
    picture.thumbnail((128, 128))
    picture.save(held, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()
