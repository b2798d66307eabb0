"""ODV-Bench (StreamForest, NeurIPS 2025): online driving video, three annotation files `targeting_*_v4.json`.

Every question is RT, asked at its `end`; the task is the benchmark's `task`.
"""

from ..records import read_records
from .catalog import find_files
from .clip_choices import choice_episode, picked
from .replies import first_replies, percent, scored

FILES = (
    "targeting_single_static_objects_v4.json", "targeting_multi_object_interaction_scenarios_or_events_v4.json",
    "targeting_single_dynamic_objects_v4.json",
)  # fmt: skip


def read(path, fps=0.5, tail_s=4.0, window_s=None):
    """Episodes of one file, or of all three in a folder. `window_s` as for OVBench."""
    return [
        choice_episode(
            record, "odvbench", f"{file.stem}-{i}", record.text("task"), fps, tail_s, window_s,
            subset=file.stem, subtask=record.text("subtask", ""),
        )
        for file in find_files(path, *FILES) for i, record in enumerate(read_records(file))
    ]  # fmt: skip


def official(episodes, traces, judge=None):
    """Accuracy in percent by subset, by task and by `task/subtask`, of the queries that got a reply."""
    groups = {"subsets": {}, "tasks": {}, "subtasks": {}}
    for episode, trace in scored(episodes, traces):
        (reply,) = first_replies(episode, trace)
        if reply is not None:
            right = picked(reply) == episode.targets[0].answer
            names = (episode.meta["subset"], episode.task, f"{episode.task}/{episode.meta['subtask']}")
            for group, name in zip(groups.values(), names):
                group.setdefault(name, []).append(right)
    return {by: {name: percent(verdicts) for name, verdicts in sorted(group.items())} for by, group in groups.items()}
