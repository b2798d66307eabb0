"""MLVU (CVPR 2025), offline: the multiple-choice part of the development set, `json/1_plotQA.json` ... `7_topic_reasoning.json`."""

from ..multiple_choice import Item, option_lines, right_option
from ..records import read_records
from .catalog import find_files

OVERALL = "tasks"
PROMPT = "{}\n{}\nOnly give the best option.\nBest option:"
# Videos lie in `video/<name of the file>/`.
FILES = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")


def items(path):
    """The questions of one file, or of all in a folder; the overall score is the unweighted mean over the tasks."""
    files = find_files(path, *(f"{folder}{name}.json" for folder in ("json/", "") for name in FILES))
    return [
        item(record, f"mlvu-{file.stem}-{i}", f"video/{file.stem}") for file in files for i, record in enumerate(read_records(file))
    ]  # fmt: skip


def item(record, name, folder):
    """The `Item` of a record of any part of MLVU, whose videos are in `folder`."""
    options = record.strings("candidates")
    prompt = PROMPT.format(record.text("question"), option_lines(options, "({}) {}"))
    answer = right_option(record, "answer", options)
    return Item(name, record.text("question_type").strip(), f"{folder}/{record.text('video')}", prompt, options, answer)
