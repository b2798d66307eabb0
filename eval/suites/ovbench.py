"""OVBench (VideoChat-Online, CVPR 2025): `ava.json`, `coin.json`, `hirest.json`, `tao.json` of its lmms-eval release.

Every question is RT, asked at its `end` with all frames before it. AVA and TAO videos are folders of frames.
"""

from ..records import read_records
from .catalog import find_files
from .clip_choices import choice_episode, picked
from .replies import first_replies, percent, scored

FILES = ("ava.json", "coin.json", "hirest.json", "tao.json")


def read(path, fps=0.5, tail_s=4.0, window_s=None):
    """Episodes of one file, or of all four in a folder; the task is the `sub_answer_type`, as the benchmark averages over those.

    `window_s` starts the stream that many seconds before the question (the benchmark's sliding window is 32) instead of at `start`.
    """
    return [
        choice_episode(
            record, "ovbench", f"{file.stem}-{i}", record.text("sub_answer_type"), fps, tail_s, window_s,
            subset=file.stem, answer_type=record.text("answer_type"),
        )
        for file in find_files(path, *FILES) for i, record in enumerate(read_records(file))
    ]  # fmt: skip


def official(episodes, traces, judge=None):
    """Percent by the benchmark's reading of the first reply; queries without a reply are left out, as there.

    `mean` is the unweighted mean over `(answer_type, sub_answer_type)` cells (streaming script), `subsets` the plain accuracy of each
    source (lmms-eval port): not comparable with each other.
    """
    cells, subsets = {}, {}
    for episode, trace in scored(episodes, traces):
        (reply,) = first_replies(episode, trace)
        if reply is not None:
            right = picked(reply) == episode.targets[0].answer
            cells.setdefault(episode.task, []).append(right)
            subsets.setdefault(episode.meta["subset"], []).append(right)
    by_cell = {task: percent(verdicts) for task, verdicts in sorted(cells.items())}
    mean = sum(by_cell.values()) / len(by_cell) if by_cell else None
    return {"cells": by_cell, "mean": mean, "subsets": {name: percent(verdicts) for name, verdicts in sorted(subsets.items())}}
