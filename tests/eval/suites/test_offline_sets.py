"""The offline sets: each release's own file format becomes questions with the right letter and the benchmark's own prompt.

Formats were read in the releases' own code: EgoSchema (egoschema/EgoSchema: questions.json, subset_answers.json), LongVideoBench
(longvideobench_dataset.py), MLVU (JUNJIE99/MLVU: video_chat/choice_bench.py, Evaluation_Test/test_bench.py), LVBench (THUDM/LVBench:
lvbench/metrics/compute_accuracy.py), Video-MME (the table of lmms-eval), MVBench (mvbench.ipynb, as its ports repeat it).
"""

import json

import pytest

from evostreaming.engine.errors import ArgumentError
from evostreaming.eval.errors import SchemaError
from evostreaming.eval.suites.catalog import OFFLINE, load_offline

VIDEOMME = {"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Humanity", "url": "u", "videoID": "fFjv93ACGo8",
            "question_id": "001-1", "task_type": "Counting Problem", "question": "How many?",
            "options": ["A. 1.", "B. 2.", "C. 3.", "D. 4."], "answer": "C"}  # fmt: skip
MVBENCH = {"video": "166583.webm", "question": "What is the action?", "candidates": ["Not sure", "Pushing", "Pulling"], "answer": "Pulling"}
MLVU = {"video": "movie101_66.mp4", "duration": 480.0, "question": "What color?", "candidates": ["Yellow", "Red"], "answer": "Yellow",
        "question_type": "plotQA"}  # fmt: skip
LONG = {"video_id": "86CxyhFV9MI", "id": "86CxyhFV9MI_0", "video_path": "86CxyhFV9MI.mp4", "subtitle_path": "86CxyhFV9MI_en.json",
        "question": "Which?", "candidates": ["a", "b", "c"], "correct_choice": 1, "duration": 190.16, "duration_group": 600,
        "question_category": "TOS", "topic_category": "NP"}  # fmt: skip
EGO = {"q_uid": "0074f737", "google_drive_id": "x", "question": "Why?", **{f"option {i}": f"reason {i}" for i in range(5)}}
LVBENCH = {"key": "Cm73ma6Ibcs", "type": "cartoon", "video_info": {"fps": 25}, "qa": [
    {"uid": "0", "question": "What year?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633", "answer": "D", "time_reference": "00:15-00:19",
     "question_type": ["key information retrieval", "entity recognition"]}]}  # fmt: skip

MLVU_TEST = {**MLVU, "candidates": ["Yellow ", "Red", "a", "b", "c", "d"], "question_type": "needleQA", "question_id": "NQA_7"}

FILES = {
    "videomme": ("videomme.jsonl", VIDEOMME),
    "mvbench": ("json/action_antonym.json", [MVBENCH]),
    "mlvu": ("json/1_plotQA.json", [MLVU]),
    "mlvu_test": ("test-ground-truth/test_mcq_gt.json", [MLVU_TEST]),
    "longvideobench": ("lvb_val.json", [LONG]),
    "egoschema": ("questions.json", [EGO, {**EGO, "q_uid": "secret"}]),
    "lvbench": ("video_info.meta.jsonl", LVBENCH),
}


@pytest.fixture
def read(tmp_path):
    def write(suite, content=None, answers=None):
        name, rows = FILES[suite]
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(rows if content is None else content))
        (tmp_path / "subset_answers.json").write_text(json.dumps({"0074f737": 3} if answers is None else answers))
        return load_offline(suite).items(tmp_path)

    return write


@pytest.mark.parametrize(
    ("suite", "item_id", "task", "video", "answer", "groups", "prompt"),
    [
        ("videomme", "videomme-001-1", "Counting Problem", "data/fFjv93ACGo8.mp4", "C", {"duration": "short", "domain": "Knowledge"},
         "How many?\nA. 1.\nB. 2.\nC. 3.\nD. 4.\nAnswer with the option's letter from the given choices directly."),
        ("mvbench", "mvbench-action_antonym-0", "action_antonym", "video/ssv2_video/166583.webm", "C", {},
         "Question: What is the action?\nOption:\n(A) Not sure\n(B) Pushing\n(C) Pulling\nOnly give the best option."),
        ("mlvu", "mlvu-1_plotQA-0", "plotQA", "video/1_plotQA/movie101_66.mp4", "A", {},
         "What color?\n(A) Yellow\n(B) Red\nOnly give the best option.\nBest option:"),
        ("mlvu_test", "mlvu_test-NQA_7", "needleQA", "video/movie101_66.mp4", "A", {},
         "What color?\n(A) Yellow \n(B) Red\n(C) a\n(D) b\n(E) c\n(F) d\nOnly give the best option.\nBest option:"),
        ("longvideobench", "longvideobench-86CxyhFV9MI_0", "TOS", "videos/86CxyhFV9MI.mp4", "B", {"length": "3-10 min"},
         "Which?\nA. a\nB. b\nC. c\nAnswer with the option's letter from the given choices directly."),
        ("egoschema", "egoschema-0074f737", "subset", "videos/0074f737.mp4", "D", {},
         "Why?\nA. reason 0\nB. reason 1\nC. reason 2\nD. reason 3\nE. reason 4\n"),
        ("lvbench", "lvbench-0", "key information retrieval", "videos/Cm73ma6Ibcs.mp4", "D",
         {"kind": ("key information retrieval", "entity recognition"), "genre": "cartoon"},
         "What year?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633\nAnswer the question with the option letter"),
    ],
)  # fmt: skip
def test_a_record_of_each_release(read, suite, item_id, task, video, answer, groups, prompt):
    (item,) = read(suite)
    assert (item.item_id, item.task, item.video, item.answer, item.groups) == (item_id, task, video, answer, groups)
    assert prompt in item.prompt and len(item.options) == len(item.letters)


@pytest.mark.parametrize(
    ("suite", "content", "says"),
    [
        ("videomme", {**VIDEOMME, "answer": "E"}, "line 1, field answer: 'E' is not one of the 4 option letters"),
        ("videomme", {**VIDEOMME, "duration": "tiny"}, "field duration: 'tiny' is not one of short, medium, long"),
        ("mvbench", [{**MVBENCH, "answer": "Lifting"}], "field answer: 'Lifting' is none of the options"),
        ("mlvu", [{**MLVU, "candidates": ["Red", "Blue"]}], "record 0, field answer: 'Yellow' is none of the options"),
        ("longvideobench", [{**LONG, "correct_choice": 3}], "field correct_choice: is 3, but there are 3 options"),
        ("lvbench", {**LVBENCH, "qa": [{**LVBENCH["qa"][0], "question": "What year?"}]}, r"field qa\[0\].question: has no options"),
    ],
)
def test_wrong_records_are_named(read, suite, content, says):
    with pytest.raises(SchemaError, match=says):
        read(suite, content)


def test_public_answers_must_belong_to_questions(read):
    with pytest.raises(SchemaError, match="field nobody: is no q_uid of questions.json"):
        read("egoschema", answers={"nobody": 1})
    with pytest.raises(SchemaError, match="field 0074f737: 5 is not a number from 0 to 4"):
        read("egoschema", answers={"0074f737": 5})


@pytest.mark.parametrize(
    ("task", "bounds", "kept"),
    [
        ("action_sequence", {"start": 1.5, "end": 9}, (1.5, 9)),
        ("episodic_reasoning", {"start": 5, "end": 5}, (0, None)),
        ("action_antonym", {"start": 1.5, "end": 9}, (0, None)),
    ],
)
def test_only_questions_about_a_part_of_a_video_have_bounds_and_impossible_ones_are_dropped(tmp_path, task, bounds, kept):
    (tmp_path / f"{task}.json").write_text(json.dumps([{**MVBENCH, **bounds}]))
    (item,) = load_offline("mvbench").items(tmp_path)
    assert (item.start, item.end, item.folder_fps) == (*kept, 3)


def test_a_corrected_list_replaces_the_one_that_it_corrects(tmp_path):
    for name, question in (("action_sequence", "old"), ("action_sequence_20250131", "new"), ("action_antonym", "other")):
        (tmp_path / f"{name}.json").write_text(json.dumps([{**MVBENCH, "question": question}]))
    found = load_offline("mvbench").items(tmp_path)
    assert [(item.task, item.prompt.splitlines()[0]) for item in found] == [
        ("action_sequence", "Question: new"),
        ("action_antonym", "Question: other"),
    ]
    (alone,) = load_offline("mvbench").items(tmp_path / "action_sequence_20250131.json")
    assert (alone.task, alone.video) == ("action_sequence", f"video/star/Charades_v1_480/{MVBENCH['video']}")


def test_of_equal_options_the_last_is_right_as_in_the_benchmarks_own_code(read):
    assert read("mlvu", [{**MLVU, "candidates": ["Yellow", "Red", "Yellow"]}])[0].answer == "C"


def test_both_splits_of_mlvu_in_one_folder_are_not_mixed(read, tmp_path):
    read("mlvu"), read("mlvu_test")
    assert len(load_offline("mlvu").items(tmp_path)) == len(load_offline("mlvu_test").items(tmp_path)) == 1


def test_every_set_is_known_by_name_and_no_other():
    assert all(load_offline(name).OVERALL in ("items", "tasks") for name in OFFLINE)
    with pytest.raises(ArgumentError, match="no offline set is called 'ovobench'"):
        load_offline("ovobench")
