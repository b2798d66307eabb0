"""OVO-Bench's own protocol: independent queries on video prefixes, and its scores of result files, rule for rule."""

import re
from pathlib import Path
from typing import NamedTuple

from ..errors import SchemaError
from ..records import Record, kind, read_json
from .ovobench import BACKWARD, FORWARD, REALTIME, choice_prompt, read_annotation

# Worded and spelled as in the benchmark.
COUNT_PROMPT = (
    "\nYou're watching a video in which people may perform a certain type of action repetively. \n"
    "The person performing this kind of action are referred to as 'they' in the following statement.\n"
    "You're task is to count how many times have different people in the video perform this kind of action in total.\n"
    "One complete motion counts as one. \nNow, answer the following question: {}\n"
    "Provide your answer as a single number (e.g., 0, 1, 2, 3…) indicating the total count.\n"
    "Do not include any additional text or explanation in your response.\n"
)
STEP_PROMPT = (
    "\nYou're watching a tutorial video which contain a sequential of steps. \n"
    "The following is one step from the whole procedures: \n{}\n"
    "Your task is to determine if the man or woman in the video is currently performing this step.\n"
    "Answer only with “Yes” or “No”.\nDo not include any additional text or explanation in your response.\n"
)
CLUE_PROMPT = (
    "\nYou're responsible of answering questions based on the video content. \n"
    "The following question are relevant to the latest frames, i.e. the end of the video.\n{}\n"
    "Decide whether existing visual content, especially latest frames, i.e. frames that near the end of the video, provide enough "
    "information for answering the question.\n"
    "Answer only with “Yes” or “No”.\nDo not include any additional text or explanation in your response.\n"
)
CATEGORIES = {"backward": BACKWARD, "realtime": REALTIME, "forward": FORWARD}


class Probe(NamedTuple):
    """One query on the prefix [0, `seconds`] of `video`; `clip` is the file that the benchmark ships for it."""

    record_id: int
    task: str
    video: str
    seconds: float
    clip: str
    prompt: str
    gold: str


def probes(path):
    """All queries of the offline protocol (3,035 in the released annotation)."""
    found = []
    for record in read_annotation(path):
        number, task, video = record.integer("id"), record.text("task"), record.text("video")
        if task not in FORWARD:
            gold = chr(65 + record.integer("gt"))
            found.append(Probe(number, task, video, record.number("realtime"), f"{number}.mp4", choice_prompt(record), gold))
            continue
        for j, probe in enumerate(record.records("test_info")):
            if task == "REC":
                prompt, gold = COUNT_PROMPT.format(f"How many times did they {record.text('activity')}?"), str(probe.integer("count"))
            else:
                prompt = STEP_PROMPT.format(probe.text("step")) if task == "SSR" else CLUE_PROMPT.format(record.text("question"))
                gold = "Yes" if probe.integer("type") else "No"
            found.append(Probe(number, task, video, probe.number("realtime"), f"{number}_{j}.mp4", prompt, gold))
    return found


def is_right(task, response, gold):
    """The benchmark's rule. Letters and Yes/No are searched as substrings ("Answer" holds an A); no response is wrong."""
    if response is None:
        return False
    if task == "REC":
        return "".join(re.findall(r"\d+", response)) == gold
    if task in FORWARD and response in ("Y", "N"):
        return response == gold[0]
    return gold in response


def score_results(folder):
    """Percent by task, by category and in total, from a folder of the benchmark's result files.

    `{"tasks": {...}, "backward", "realtime", "forward", "total"}`; None for a category without any result, and then for the total.
    """
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise SchemaError(folder, "", "", "holds no result file (*.json)")
    right = {}
    for path in files:
        top = Record(read_json(path), path, "")
        for category in CATEGORIES:
            for record in top.records(category):
                task = record.choice("task", CATEGORIES[category])
                right.setdefault(task, []).extend(_verdicts(record, task))
    tasks = {task: 100 * sum(verdicts) / len(verdicts) for task, verdicts in sorted(right.items()) if verdicts}
    means = {}
    for category, members in CATEGORIES.items():
        there = [tasks[task] for task in members if task in tasks]
        means[category] = sum(there) / len(there) if there else None
    total = None if None in means.values() else sum(means.values()) / 3
    return {"tasks": tasks, **means, "total": total}


def _verdicts(record, task):
    if task not in FORWARD:
        return [is_right(task, _response(record), record.text("ground_truth"))]
    golds = [str(p.integer("count")) if task == "REC" else "Yes" if p.integer("type") else "No" for p in record.records("test_info")]
    return [is_right(task, _response(p), gold) for p, gold in zip(record.records("test_info"), golds)]


def _response(record):
    value = record.data.get("response")
    if value is not None and not isinstance(value, str):
        record.fail("response", f"expected a string or null, got {kind(value)} (the decoded batch instead of its first text?)")
    return value
