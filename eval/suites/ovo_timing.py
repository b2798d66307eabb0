"""OVO-Timing: when, not what. The forward records of OVO-Bench, scored by precision and recall within 2 s; texts are not judged.

Reads OVO-Bench's `ovo_bench_new.json`, or a list of `{id, task, video, question, ask_time, gt_times, end_time}`.
"""

import re

from ..episodes import Episode, Query, Target
from ..records import read_records
from .catalog import find_file
from .ovobench import ANNOTATION, FORWARD
from .replies import scored

TOLERANCE_S = 2.0


def read(path, fps=2.0):
    """Episodes: REC and SSR from the start of the video, CRR from the question on."""
    episodes, seen = [], {}
    for record in read_records(find_file(path, "ovobench_timing.json", *ANNOTATION)):
        number, task, video = record.integer("id"), record.text("task"), record.text("video")
        if "gt_times" not in record and task not in FORWARD:
            continue
        if number in seen:
            record.fail("id", f"{number} was already used by {seen[number]}; ids must be unique")
        seen[number] = record.place
        record.choice("task", FORWARD)
        question, asked, due, end = _listed(record) if "gt_times" in record else _from_ovobench(record, task)
        targets = tuple(Target(f"g{i}", "q", t, (t - TOLERANCE_S, t + TOLERANCE_S), "now") for i, t in enumerate(due))
        start = asked if task == "CRR" else 0.0
        episodes.append(
            Episode(
                f"ovo_timing-{number}", "ovo_timing", task, "FAR", f"src_videos/{video}", start, end, fps,
                (Query("q", asked, question, "text"),), targets, {"video_id": video, "source_id": number, "text_rule": "any"},
            )
        )  # fmt: skip
    return episodes


def official(episodes, traces, judge=None):
    """`{"tasks": {task: {"precision", "recall"}}, "F1": {task: ..., "mean"}}` in percent: means over records, F1 of those means."""
    pairs = {}
    for episode, trace in scored(episodes, traces):
        said = [turn.t for turn in trace.turns if not turn.silent]
        pairs.setdefault(episode.task, []).append(precision_recall(said, [t.t_star for t in episode.targets]))
    tasks, f1 = {}, {}
    for task, rows in sorted(pairs.items()):
        p, r = (100 * sum(column) / len(rows) for column in zip(*rows))
        tasks[task], f1[task] = {"precision": p, "recall": r}, 2 * p * r / (p + r) if p + r else 0.0
    return {"tasks": tasks, "F1": {**f1, "mean": sum(f1.values()) / len(f1) if f1 else None}}


def precision_recall(said, due, tolerance=TOLERANCE_S):
    """Greedy: every due time, in order, takes the nearest response that is still free and within `tolerance` seconds."""
    free, hits = sorted(said), 0
    for t in sorted(due):
        near = min(free, key=lambda s: abs(s - t), default=None)
        if near is not None and abs(near - t) <= tolerance:
            free.remove(near)
            hits += 1
    return hits / len(said) if said else 0.0, hits / len(due) if due else 0.0


def _listed(record):
    return record.text("question"), record.number("ask_time"), record.numbers("gt_times"), record.number("end_time")


def _from_ovobench(record, task):
    end = max(probe.number("realtime") for probe in record.records("test_info"))
    if task == "CRR":
        return record.text("question"), record.number("ask_time"), (record.number("clue_time"),), end
    if task == "REC":
        question, starts = f"How many times does the event: {record.text('activity')} happen?", record.numbers("start_times")
    else:
        tutorial = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", record.text("tutorial")).lower()
        question, starts = f"Describe the steps of {tutorial}", record.numbers("start_time")
    return question, 0.0, tuple(start + TOLERANCE_S for start in starts), end
