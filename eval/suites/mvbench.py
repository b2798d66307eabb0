"""MVBench (CVPR 2024), offline: `json/<task>.json` of the release, 20 tasks of 200 questions; videos below `video/`."""

from ..multiple_choice import Item, option_lines, right_option
from ..records import read_records
from .catalog import find_files

OVERALL = "tasks"
PROMPT = "Question: {}\nOption:\n{}\nOnly give the best option."

# task: where its videos lie. Episodic reasoning has folders of frames, three a second.
TASKS = {
    "action_sequence": "star/Charades_v1_480",
    "action_prediction": "star/Charades_v1_480",
    "action_antonym": "ssv2_video",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "unexpected_action": "FunQA_test/test",
    "object_existence": "clevrer/video_validation",
    "object_interaction": "star/Charades_v1_480",
    "object_shuffle": "perception/videos",
    "moving_direction": "clevrer/video_validation",
    "action_localization": "sta/sta_video",
    "scene_transition": "scene_qa/video",
    "action_count": "perception/videos",
    "moving_count": "clevrer/video_validation",
    "moving_attribute": "clevrer/video_validation",
    "state_change": "perception/videos",
    "fine_grained_pose": "nturgbd",
    "character_order": "perception/videos",
    "egocentric_navigation": "vlnqa",
    "episodic_reasoning": "tvqa/frames_fps3_hq",
    "counterfactual_inference": "clevrer/video_validation",
}
FOLDER_FPS = 3.0
CORRECTED = "_20250131"  # ends the name of a list that replaces the one without it
# Only these are about a part of their video; the benchmark's own code reads `start` and `end` of no other.
BOUNDED = ("action_sequence", "action_prediction", "object_interaction", "action_localization", "episodic_reasoning")


def items(path):
    """The questions of one file, or of all in a folder; a question about a part of its video has `start` and `end`."""
    names = [f"{folder}{task}{ending}.json" for folder in ("json/", "") for task in TASKS for ending in ("", CORRECTED)]
    files = {file.stem.removesuffix(CORRECTED): file for file in find_files(path, *names)}  # the corrected one comes last and stays
    return [_item(record, task, i) for task, file in files.items() for i, record in enumerate(read_records(file))]


def _item(record, task, number):
    options = record.strings("candidates")
    start, end = (record.number("start", 0.0), record.number("end", None)) if task in BOUNDED else (0.0, None)
    if end is not None and end <= start:
        start, end = 0.0, None  # some of episodic reasoning end before they start: all that is left is the whole
    folder = TASKS.get(task)
    video = f"video/{folder}/{record.text('video')}" if folder else record.text("video")
    prompt = PROMPT.format(record.text("question"), option_lines(options, "({}) {}"))
    answer = right_option(record, "answer", options)
    return Item(f"mvbench-{task}-{number}", task, video, prompt, options, answer, {}, start, end, FOLDER_FPS)
