"""StreamingBench: `questions_*.json` of the repository (all variants), or the CSV files of the dataset page.

Multiple choice becomes RT; sequential questions carry the earlier ones with their gold answers, as in the benchmark; Proactive Output
becomes FAR, streamed from the question until 4 s after the moment that is asked for.
"""

import ast
import csv
import re
from pathlib import Path

from ..episodes import Episode, Query, Target
from ..errors import SchemaError
from ..records import Record, kind, read_json
from .catalog import find_files
from .replies import percent, replies, scored

FILES = ("questions_real.json", "questions_omni.json", "questions_sqa.json", "questions_proactive.json")
PROACTIVE, SEQUENTIAL = "Proactive Output", "Sequential Question Answering"
FRESH_S, AFTER_S = 2.0, 4.0
LETTERS = "ABCD"
# What policies without eyes get, percent; measured on the released files.
BLIND = {"proactive time, always after 7 s": 52.4, "proactive time, at the first poll": 4.4, "multiple choice, always one letter": 25.0}

_STAMP = re.compile(r"\d{1,2}:\d\d:\d\d")
_LETTERED = re.compile(r"\s*([A-Z])\.\s*")

# The wording of the benchmark.
PROMPT = (
    "You are an advanced video question-answering AI assistant. You have been provided with some frames from the video and a "
    "multiple-choice question related to the video. Your task is to carefully analyze the video and provide the best answer to question, "
    "choosing from the four options provided. Respond with only the letter (A, B, C, or D) of the correct option.\n\n"
    "{context}Question: {question}\n\nOptions:\n{options}\n\nThe best option is:"
)
CONTEXT = "Here are the contextual information related to the video. Please answer the questions based on the contextual information: "
EARLIER = "At timestamp {}, the following question and answer occurred: Question: {}; Options: {}; Answer: {}; "


def read(path, fps=0.5, tail_s=4.0, context_s=None):
    """Episodes of one annotation file, or of all `questions_*.json` of the first release in a folder.

    `context_s` starts the stream that many seconds before the question (the leaderboard uses 60) instead of at the video's start.
    """
    files = find_files(path, *FILES)
    episodes = []
    for file in files:
        for n, group in enumerate(_csv_groups(file) if file.suffix == ".csv" else _json_groups(file)):
            earlier = ""
            for m, (record, question) in enumerate(group):
                episode, asked = _episode(record, question, f"{file.stem}-{n}-{m}", earlier, fps, tail_s, context_s)
                episodes.append(episode)
                if question.text("task_type") == SEQUENTIAL:
                    earlier = (earlier or CONTEXT) + asked
    return episodes


def official(episodes, traces, judge=None):
    """The benchmark's scores in percent: first letter of the first reply for multiple choice, empty replies left out; for Proactive
    Output the first reply within 2 s of the moment (`time`), and then with the wanted text in it (`answer`)."""
    choices, times, answers = {}, [], []
    for episode, trace in scored(episodes, traces):
        said = replies(episode, trace)
        if episode.task == PROACTIVE:
            in_time, right = proactive_verdict(episode.targets[0].t_star, said[0] if said else None, episode.targets[0].answer)
            times.append(in_time)
            answers.append(right)
        elif said:
            choices.setdefault(episode.task, []).append(said[0][1][0] == episode.targets[0].answer)
    table = {task: percent(verdicts) for task, verdicts in sorted(choices.items())}
    result = {"tasks": table, "multiple_choice": percent([v for verdicts in choices.values() for v in verdicts])}
    if times:
        result["proactive"] = {"time": percent(times), "answer": percent(answers)}
    return result


def proactive_verdict(due, reply, gold):
    """`(in time, in time and right)` of a `(seconds, text)` reply, or None."""
    in_time = reply is not None and -2 <= reply[0] - due <= 2
    return in_time, in_time and gold in reply[1]


def seconds(stamp):
    """The benchmark's reading of a time stamp, malformed ones included: "00:00:8" is 8 s, "00:24" 24 s, "00:12450" 12,450 s."""
    total = 0
    for part in stamp.split(":"):
        total = 60 * total + int(part)
    return float(total)


def four_options(pieces):
    """The four option texts without letters, or None. Some lists of the release are split inside a sentence or end in rubbish."""
    if len(pieces) != 4:
        merged = []
        for piece in pieces:
            lettered = _LETTERED.match(piece)
            if lettered and len(merged) < 4 and lettered[1] == LETTERS[len(merged)]:
                merged.append(piece)
            elif not lettered and piece.strip() and merged:
                merged[-1] = f"{merged[-1].rstrip()}, {piece.strip()}"
        pieces = merged
    return tuple(_LETTERED.sub("", piece, count=1).strip() for piece in pieces) if len(pieces) == 4 else None


def _episode(record, question, name, earlier, fps, tail_s, context_s):
    task, video = question.text("task_type"), record.text("video_path").removeprefix("./")
    t, meta = _time(question, "time_stamp"), {"video_id": Path(video).stem, "source_id": name}
    if not _STAMP.fullmatch(question.text("time_stamp")):
        meta["malformed_time_stamp"] = question.text("time_stamp")
    if task == PROACTIVE:
        due, gold = _time(question, "ground_truth_time_stamp"), question.text("ground_truth_output")
        if due < t:
            question.fail("ground_truth_time_stamp", f"lies before time_stamp {question.text('time_stamp')}")
        query, target = Query("q", t, question.text("question"), "text"), Target("g0", "q", due, (due, due + FRESH_S), gold)
        meta["text_rule"] = "contains"
        return Episode(f"streamingbench-{name}", "streamingbench", task, "FAR", video, t, due + AFTER_S, fps, (query,), (target,), meta), ""
    options = four_options(question.strings("options"))
    if options is None:
        question.fail("options", f"expected four options, got {len(question.items('options'))} pieces that do not make four")
    gold = question.choice("answer", LETTERS)
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options)]
    query = Query("q", t, PROMPT.format(context=earlier and earlier + "\n\n", question=question.text("question"), options="\n".join(lines)),
                  "letter", options)  # fmt: skip
    start = 0.0 if context_s is None else max(0.0, t - context_s)
    episode = Episode(
        f"streamingbench-{name}", "streamingbench", task, "RT", video, start, t + tail_s, fps, (query,),
        (Target("g0", "q", t, (t, t), gold),), meta,
    )  # fmt: skip
    return episode, EARLIER.format(question.text("time_stamp"), question.text("question"), ", ".join(lines), gold)


def _time(question, name):
    try:
        return seconds(question.text(name))
    except ValueError:
        question.fail(name, f"{question.text(name)!r} is not a time stamp such as 00:01:30")


def _json_groups(path):
    """Lists of `(record, question)`: one list a video for sequential questions, whose order matters, else one a record."""
    value = read_json(path)
    if not isinstance(value, list):
        raise SchemaError(path, "", "", f"expected a list of records at the top level, got {kind(value)}")
    for i, item in enumerate(value):
        entries = item if isinstance(item, list) else [item]
        records = [Record(entry, path, f"record {i}", f"[{j}]." if isinstance(item, list) else "") for j, entry in enumerate(entries)]
        yield [(record, question) for record in records for question in record.records("questions")]


def _csv_groups(path):
    """The same from a CSV file, whose rows name their video by question id; consecutive rows of one video make a list."""
    groups = {}
    try:
        with open(path, encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            for row in reader:
                question = Record({key: value for key, value in row.items() if key and value}, path, f"line {reader.line_num}")
                if "options" in question:
                    try:
                        question.data["options"] = ast.literal_eval(question.text("options"))
                    except (ValueError, SyntaxError):
                        question.fail("options", "is not a Python list of texts")
                parts = question.text("question_id").split("_")
                if len(parts) < 2:
                    question.fail("question_id", f"{question.text('question_id')!r} has no sample number before its last underscore")
                sample = {"video_path": f"{path.stem}/sample_{parts[-2]}/video.mp4"}
                groups.setdefault(parts[-2], []).append((Record(sample, path, question.place), question))
    except UnicodeDecodeError as error:
        raise SchemaError(path, "", "", f"not UTF-8: {error.reason}") from None
    yield from groups.values()
