"""A bench's result as Markdown tables and as a plot."""

from .arrivals import DEADLINE
from .measure import STAGES
from .targets import reached

AXES = {"context": "context, tokens", "streams": "streams in a batch", "tokens_per_frame": "visual tokens a frame"}


def table(head, rows):
    """Markdown lines of a table; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


def number(value, digits=2):
    return "" if value is None else f"{value:,.{digits}f}"


def markdown(result):
    """The whole report."""
    machine, ceilings = result["machine"], result["ceilings"]
    kind = result["dtype"] + (f", {result['quantization']} weights" if result["quantization"] else "")
    lines = [
        f"# {result['model']}",
        "",
        f"{machine['device']}, torch {machine['torch']}, evostreaming {machine['evostreaming']}, {kind}. `{machine['command']}`.",
        f"Measured ceilings: copy {ceilings['bandwidth'] / 1e12:.3f} TB/s, matrix product {ceilings['flops'] / 1e12:.2f} TFLOP/s.",
        "Times are milliseconds from the frame on the device to the decision on the host.",
        "",
        *step_lines(result["rows"]),
        *roofline_lines(result["rows"]),
        *peer_lines(result["peers"]),
        *stream_lines(result.get("streams_per_device")),
        *scan_lines(result.get("scan")),
        *long_lines(result.get("long_stream")),
        *target_lines(reached(result)),
    ]
    if result["failed"]:
        lines += ["## Not measured", "", *(f"- {item['part']}: {item['reason']}" for item in result["failed"]), ""]
    return "\n".join(lines)


def step_lines(rows):
    if not rows:
        return []
    head = ["context", "streams", "frame", "tokens", "new", "p50", "p95", "p99", *(f"{stage} p50 / p99" for stage in STAGES)]
    head += ["frames/s", "reply ms/token", "% of floor"]
    body = []
    for row in rows:
        stages = [f"{row['stages'][stage]['p50']:.2f} / {row['stages'][stage]['p99']:.2f}" for stage in STAGES]
        total = [number(row["total"][key]) for key in ("p50", "p95", "p99")]
        sizes = [row["context"], row["streams"], "×".join(map(str, row["frame"])), row["tokens_per_frame"], row["new_tokens"]]
        last = [number(row["frames_per_second"], 1), number(row.get("reply_ms_per_token")), number(row["percent_of_floor"], 1)]
        body.append([*sizes, *total, *stages, *last])
    return ["## Steps", "", *table(head, body), ""]


def roofline_lines(rows):
    """One table a row: what each stage must move and multiply, and how near to the ceilings it is."""
    lines = ["## Roofline", ""] if rows else []
    for row in rows:
        measured = {stage: row["stages"][stage]["p50"] for stage in STAGES} | {"reply": row.get("reply_ms_per_token")}
        body = []
        for stage, limit in row["floor"].items():
            spent = measured[stage]
            reached = None if not spent else 100 * limit["floor_ms"] / spent
            name = "reply, a token" if stage == "reply" else stage
            sizes = [number(limit["bytes"] / 1e9, 3), number(limit["flops"] / 1e9, 1), number(limit["floor_ms"], 3)]
            body.append([name, *sizes, number(spent, 3), number(reached, 1)])
        lines += [f"Context {row['context']}, streams {row['streams']}, tokens a frame {row['tokens_per_frame']}:", ""]
        lines += [*table(["stage", "GB", "GFLOP", "floor ms", "p50 ms", "% reached"], body), ""]
    return lines


def peer_lines(peers):
    if not peers:
        return []
    body = []
    for row in peers:
        differ = "same first choice" if row["logits_difference"] is None else f"{row['logits_difference']:.2g}"
        total = [number(row["total"][key]) for key in ("p50", "p95", "p99")]
        body.append([row["peer"], row["context"], *total, number(row.get("ratio")), differ])
    head = ["peer", "context", "p50", "p95", "p99", "times the engine's p50", "decision logits differ by (relative L2)"]
    return ["## Peers, same process, same frames, one stream", "", *table(head, body), ""]


def stream_lines(rates):
    if not rates:
        return []
    counts = sorted(int(streams) for streams in next(iter(rates.values()))["p99"])
    body = [
        [rate, *(number({int(key): value for key, value in found["p99"].items()}[streams], 0) for streams in counts), found["within"]]
        for rate, found in rates.items()
    ]
    head = ["frames/s a stream", *(f"{streams} streams" for streams in counts), "most within 200 ms"]
    note = (
        "p99 delay in ms from a frame's arrival to its decision; arrivals are simulated, times of batches are the measured ones above, and "
        "between two of them what lies on the line between."
    )
    return ["## Streams on one device", "", note, "", *table(head, body), ""]


def scan_lines(rows):
    if not rows:
        return []
    head = ["silent turns", "frames", "ms a frame, stepping", "ms a frame, scan", "scan is faster by"]
    body = [
        [f"{100 * row['silent']:.0f} %", row["frames"], number(row["step_ms"]), number(row["scan_ms"]), number(row["ratio"])]
        for row in rows
    ]
    return ["## `scan` against stepping, one stream", "", *table(head, body), ""]


def long_lines(found):
    if not found:
        return []
    head = ["frames", "window", "first tenth p50 / p99", "last tenth p50 / p99", "drift of p50, %", "memory grew, bytes", "host's"]
    times = [f"{number(found[f'{part}_ms'])} / {number(found[f'{part}_p99_ms'])}" for part in ("first", "last")]
    body = [found["frames"], found["window"], *times, number(found["drift_percent"]), found["memory_growth"], found["host_memory_growth"]]
    differ = found.get("logits_reason", "not compared")
    if "logits_difference" in found:
        differ = f"{found['logits_difference']:.2g}"
    note = f"Logits of the first decoder layer from those of a fresh prefill of the retained tokens (relative L2): {differ}."
    return ["## A long stream", "", *table(head, [body]), "", note, ""]


def target_lines(found):
    if not found:
        return []
    body = []
    for target, value in found:
        sign = "≥" if target.more else "≤"
        limits = [f"{sign} {limit}" if limit is not None else "" for limit in (target.must, target.moonshot)]
        body.append([target.what, *limits, number(value), target.verdict(value)])
    return ["## Targets", "", *table(["target", "must", "moonshot", "measured", ""], body), ""]


def plot(result, file):
    """PNG: stages over their floors for the base row, peers, and a curve for every axis with more than one point."""
    from matplotlib.figure import Figure

    rows, peers = result["rows"], result["peers"]
    base = rows[0]
    curves = {axis: points for axis in AXES if len(points := on_axis(rows, base, axis)) > 1}
    rates = result.get("streams_per_device") or {}
    panels = 1 + bool(peers) + len(curves) + bool(rates)
    figure = Figure(figsize=(4.5 * panels, 3.6), layout="constrained")
    axes = iter(figure.subplots(1, panels, squeeze=False)[0])
    panel = next(axes)
    panel.bar(STAGES, [base["stages"][stage]["p50"] for stage in STAGES], color="#4477aa", label="measured p50")
    panel.bar(STAGES, [base["floor"][stage]["floor_ms"] for stage in STAGES], color="#ccbb44", label="floor")
    panel.set(ylabel="ms", title=f"stages, context {base['context']}")
    panel.legend(frameon=False)
    if peers:
        panel = next(axes)
        here = [row for row in peers if row["context"] == max(each["context"] for each in peers)]
        panel.barh([row["peer"] for row in here] + ["evostreaming"], [row["total"]["p50"] for row in here] + [base["total"]["p50"]])
        panel.set(xlabel="ms a frame, p50", xscale="log", title=f"peers, context {here[0]['context']}")
        panel.invert_yaxis()
    for axis, points in curves.items():
        panel = next(axes)
        for key in ("p50", "p99"):
            panel.plot([row[axis] for row in points], [row["total"][key] for row in points], marker="o", label=key)
        panel.plot([row[axis] for row in points], [row["floor_ms"] for row in points], linestyle="--", color="gray", label="floor")
        panel.set(xlabel=AXES[axis], ylabel="ms a step", xscale="log", yscale="log")
        panel.set_xticks([row[axis] for row in points], [str(row[axis]) for row in points], rotation=45)
        panel.minorticks_off()
        panel.legend(frameon=False)
    if rates:
        panel = next(axes)
        for rate, found in rates.items():
            late = sorted((int(streams), delay) for streams, delay in found["p99"].items())
            panel.plot(*zip(*late), marker="o", label=f"{rate} frames/s")
        panel.axhline(DEADLINE, linestyle="--", color="gray")
        panel.set(xlabel="streams on the device", ylabel="p99 ms, arrival to decision", xscale="log", yscale="log")
        panel.set_xticks([streams for streams, _ in late], [str(streams) for streams, _ in late])
        panel.legend(frameon=False)
    figure.suptitle(f"{result['model']}, {result['machine']['device']}")
    figure.savefig(file, dpi=130)


def on_axis(rows, base, axis):
    """Rows that differ from the base row along one axis alone, sorted along it."""
    others = [other for other in AXES if other != axis]
    same = [row for row in rows if all(row["asked"][other] == base["asked"][other] for other in others)]
    return sorted({row[axis]: row for row in same}.values(), key=lambda row: row[axis])
