"""What every report is made of: one self-contained HTML page, tiles, tables, charts."""

import html
import io

from .. import __version__
from .journal import write_whole

INK, QUIET, LINE, GOOD, FAIR, BAD, ASK = "#1b2430", "#667085", "#e4e7ec", "#0b8457", "#dc8a04", "#c4320a", "#2f5fd0"
SERIES = (ASK, GOOD, FAIR, "#8b3fc7", "#0e7490", BAD)  # one color a run

STYLE = f"""
:root {{ color-scheme: light; --ink: {INK}; --quiet: {QUIET}; --line: {LINE}; --good: {GOOD}; --fair: {FAIR}; --bad: {BAD}; --ask: {ASK}; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 1120px; padding: 32px 24px 64px; color: var(--ink); background: #fff;
       font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }}
h1 {{ margin: 0; font-size: 26px; overflow-wrap: anywhere; }} h2 {{ margin: 44px 0 6px; font-size: 19px; }}
h3 {{ margin: 0; font-size: 15px; }}
p {{ margin: 0 0 12px; }} .about, .note {{ color: var(--quiet); overflow-wrap: anywhere; }} .note {{ font-size: 14px; max-width: 78ch; }}
.warning {{ padding: 10px 14px; border-left: 4px solid var(--bad); background: #fff4ed; overflow-wrap: anywhere; margin: 12px 0; }}
.numbers {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(148px, 1fr)); gap: 12px; margin-top: 20px; }}
.numbers div {{ border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }}
.numbers b {{ display: block; font-size: 26px; line-height: 1.2; font-variant-numeric: tabular-nums; }}
.numbers span {{ color: var(--quiet); font-size: 13px; display: block; }}
.scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 6px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }}
th {{ color: var(--quiet); font-weight: 500; vertical-align: bottom; }}
th:first-child, td:first-child {{ text-align: left; padding-left: 0; }}
tr.sum td {{ font-weight: 600; background: #f9fafb; }} tr.floor td {{ color: var(--quiet); }}
.better {{ color: var(--good); font-weight: 600; }} .worse {{ color: var(--bad); font-weight: 600; }}
.bar {{ position: relative; display: inline-block; width: 120px; height: 10px; border-radius: 5px; background: #f2f4f7;
        vertical-align: middle; }}
.bar i {{ position: absolute; inset: 0 auto 0 0; border-radius: 5px; background: #a9c1f2; }}
.bar u {{ position: absolute; top: 4px; height: 2px; background: var(--ink); }}
.charts {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 12px 32px; }}
.charts figure {{ min-width: 0; }}
figure {{ margin: 16px 0 0; }} figcaption {{ font-size: 15px; font-weight: 600; margin-bottom: 6px; }}
svg {{ width: 100%; height: auto; display: block; }}
dl {{ display: grid; grid-template-columns: minmax(120px, max-content) minmax(0, 1fr); gap: 2px 20px; font-size: 14px; margin: 8px 0; }}
@media (max-width: 640px) {{
  .bar {{ width: 64px; }} th, td {{ padding: 6px; }} td:first-child {{ white-space: normal; min-width: 84px; }}
}}
dt {{ color: var(--quiet); }} dd {{ margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }}
"""


def write_page(path, title, body, style=""):
    """Write one HTML file without outside references; `body` is a list of HTML pieces. Raises RunError."""
    head = (
        f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{escape(title)}</title><style>{STYLE}{style}</style>"
    )
    foot = f"<p class=about style='margin-top:48px;font-size:13px'>EvoStreaming {escape(__version__)}</p>"
    page = f"<!doctype html>\n<html lang=en><head>{head}</head>\n<body>\n{chr(10).join(p for p in body if p)}\n{foot}</body></html>\n"
    write_whole(path, page.encode("utf-8", "replace"))
    return path


def escape(text):
    return html.escape(str(text))


def tiles(pairs):
    """Headline numbers: (value, label) pairs; a label may have two lines."""
    cells = (f"<div><b>{escape(value)}</b>" + "".join(f"<span>{escape(x)}</span>" for x in labels) + "</div>" for value, *labels in pairs)
    return f"<section class=numbers>{''.join(cells)}</section>"


def table(columns, rows):
    """`rows`: (class of the row, cells of HTML)."""
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "".join(f"<tr class='{kind}'>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for kind, cells in rows)
    return f"<div class=scroll><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def facts(pairs):
    """A list of names and values; what has no value is left out."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs if value not in (None, [], ""))
    return f"<dl>{rows}</dl>"


def number(value, digits=1):
    return "–" if value is None else f"{value:.{digits}f}"


def percent(share):
    return "–" if share is None else f"{share:.0%}"


def between(interval):
    return f"{interval[0]:.1f} – {interval[1]:.1f}" if interval else ""


def bar(value, interval=None):
    """A percentage as a bar, its interval as a line over it."""
    if value is None:
        return ""
    low, high = interval or (value, value)
    line = f"<u style='left:{low:.1f}%;width:{max(high - low, 0):.1f}%'></u>" if interval else ""
    return f"<span class=bar><i style='width:{min(max(value, 0), 100):.1f}%'></i>{line}</span>"


def chart(draw, size, caption="", polar=False):
    """An inline SVG that `draw(axes)` fills; `size` in inches. Text stays text, so that the page's own font shows it."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    look = {"svg.fonttype": "none", "svg.hashsalt": "report", "font.size": 10, "font.family": "DejaVu Sans", "text.color": INK,
            "axes.edgecolor": "#98a2b3", "axes.labelcolor": QUIET, "xtick.color": QUIET, "ytick.color": QUIET}  # fmt: skip
    with rc_context(look):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(projection="polar" if polar else None)
        draw(axes)
        if not polar:
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axisbelow(True)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    legend = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{legend}{svg[svg.index('<svg') :]}</figure>"
