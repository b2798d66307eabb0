"""The step of all five backbones at their published sizes, random weights, one after the other in one process, each against its floor."""

import json
from functools import partial

from .bench import Bench
from .bench_report import number, table
from .floors import Ceilings, Work, floors
from .measure import STAGES
from .random_checkpoint import MODELS
from .targets import Target
from .timing import BANDWIDTH, FLOPS

TARGET = Target("times the floor", 1.7, 1.3, lambda row: row["total"]["p50"] / row["reference_floor_ms"])


def measure_backbones(rows, steps, load, out, progress, names=tuple(MODELS)):
    """Results of the benches of all sizes, a list; each one's files go to a folder of its name in `out`.

    rows: what each bench measures; load(name) gives the Subject; progress(number, name, fraction) hears how far each part is.
    """
    results = []
    for index, name in enumerate(names):
        try:
            results.append(measure_one(rows, steps, load(name), out / name, partial(progress, index, name)))
        except KeyboardInterrupt:
            if not results:
                raise
            results[-1]["interrupted"] = True
        (out / "backbones.json").write_text(json.dumps(results, indent=1) + "\n")
        (out / "backbones.md").write_text(summary(results))
        if results[-1]["interrupted"]:
            break
    return results


def measure_one(rows, steps, subject, out, report):
    """The result of one bench, with the floor that its rows are held to; its memory is free again."""
    run = Bench(subject, rows, steps, out)
    result = run.run(run.parts(), lambda part, title, done: report(done))
    for row in result["rows"]:
        row["reference_floor_ms"] = reference_floor(subject.config, row)
    return result


def reference_floor(config, row):
    """Milliseconds that tower, matrices and attention of a row's frames alone take at the ceilings of an H200, text and head left out."""
    work = Work(row["streams"], row["asked"]["context"], row["tokens_per_frame"], tuple(row["frame"]))
    found = floors(config, work, Ceilings(BANDWIDTH, FLOPS["bf16"]))
    return found["vision"]["floor_ms"] + found["prefill"]["floor_ms"]


def summary(results):
    """Markdown: a line for each measured row."""
    machine = results[0]["machine"]
    lines = [f"# {len(results)} backbones, random weights", ""]
    lines += [f"{machine['device']}, torch {machine['torch']}, evostreaming {machine['evostreaming']}. `{machine['command']}`.", ""]
    head = ["model", "context", "streams", "tokens", "p50", "p99", *STAGES, "floor", "times the floor", f"<= {TARGET.must}"]
    body = []
    for result in results:
        for row in result["rows"]:
            ratio = TARGET.value(row)
            times = [row["total"]["p50"], row["total"]["p99"], *(row["stages"][stage]["p50"] for stage in STAGES)]
            sizes = [result["size"], row["context"], row["streams"], row["tokens_per_frame"]]
            body.append([*sizes, *map(number, times), number(row["reference_floor_ms"]), number(ratio), TARGET.verdict(ratio)])
    lines += [*table(head, body), ""]
    lines += ["Floor: tower, matrices and attention of the frame's tokens at 4.3 TB/s and 790 TFLOP/s, the ceilings of one H200.", ""]
    failed = [f"- {result['size']}, {item['part']}: {item['reason']}" for result in results for item in result["failed"]]
    return "\n".join(lines + (["## Not measured", "", *failed, ""] if failed else []))
