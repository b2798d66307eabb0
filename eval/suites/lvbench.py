"""LVBench (2024), offline: `video_info.meta.jsonl`, one video a line with its questions; videos are `videos/<key>.mp4`."""

import re

from ..multiple_choice import Item, right_letter
from ..records import read_jsonl
from .catalog import find_file

OVERALL = "items"
PROMPT = "{}\nAnswer the question with the option letter"
_OPTION = re.compile(r"^[ \t]*\(([A-Z])\)[ \t]*(.*)$", re.MULTILINE)


def items(path):
    """All questions; a question of several kinds counts in the group of each, and as a task under the first."""
    file = find_file(path, "video_info.meta.jsonl", "data/video_info.meta.jsonl")
    return [_item(question, video.text("key"), video.text("type", "")) for video in read_jsonl(file) for question in video.records("qa")]


def _item(record, video, genre):
    text, kinds = record.text("question"), record.strings("question_type")
    found = _OPTION.findall(text)
    if len(found) < 2 or [letter for letter, _ in found] != [chr(65 + i) for i in range(len(found))]:
        record.fail("question", "has no options (A), (B), ... each on a line of its own")
    if not kinds:
        record.fail("question_type", "is empty")
    options = tuple(option.strip() for _, option in found)
    groups = {"kind": kinds, **({"genre": genre} if genre else {})}
    answer = right_letter(record, "answer", len(options))
    return Item(f"lvbench-{record.text('uid')}", kinds[0], f"videos/{video}.mp4", PROMPT.format(text), options, answer, groups)
