"""The audit of a run against the world's truth: what it calls right is right, and nothing else is."""

import json

import pytest

from evostreaming.tiny.audit import audit, known, moments, put_with, truths
from evostreaming.tiny.pool import make, scene_of
from evostreaming.tiny.questions import Asker

VIDEO = "train-repeat-20000072.mp4"


def question_of(task, at):
    return next(question for question in Asker(scene_of(VIDEO), 0.5, at).ask(task))


def write_run(folder, videos, **files):
    (folder / "round_1").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"fps": 10, "relevance": 0.5}))
    for name, rows in files.items():
        (folder / "round_1" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return audit(folder, videos)["round_1"]


def test_a_scene_is_rebuilt_from_its_file_name():
    scene = scene_of(f"some/folder/{VIDEO}")
    assert (scene.seed, scene.split, scene.genre) == (20000072, "train", "repeat")
    assert scene_of("holiday.mp4") is None and scene_of("train-dance-3.mp4") is None


def test_a_pool_names_its_clips_and_writes_none_twice(tmp_path):
    assert make(tmp_path, 2, workers=1) == 2
    names = [path.name for path in tmp_path.iterdir()]
    assert all(scene_of(name).split == "train" for name in names) and len(names) == 2
    assert make(tmp_path, 2, workers=1) == 0


def test_an_answer_is_right_at_its_time():
    scene = scene_of(VIDEO)
    end = scene.duration - 0.3
    question = question_of("count", end)
    text = question.texts()[0]
    assert truths(VIDEO, text, end) == {question.answer}
    due = moments(VIDEO, text, 0.0, 0.5)
    fill = dict(question.fill)
    runs = [e for e in scene.events if e.kind == fill["act"] and scene.things[e.who].name(end) == fill["name"]]
    assert len(due) == len(runs) or len(due) == len(runs) + 1
    assert truths(VIDEO, "What is the meaning of this?", end) is None


def test_each_role_is_measured(clips, tmp_path):
    end = scene_of(VIDEO).duration - 0.3
    question = question_of("count", end)
    text, (start, stop) = question.texts()[0], question.evidence[0]
    inside, asked = round(5 * (start + stop)), [{"text": text, "answer": question.answer}, {"text": "Why is it so?", "answer": "x"}]
    row = {"video": VIDEO, "category": "TA", "questions": asked}
    turns = [{"t": 0.0, "query": text, "reply": None}, {"t": inside / 10, "reply": "9"}, {"t": end, "reply": question.answer}]
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / VIDEO).symlink_to(clips / VIDEO)
    assert known(VIDEO, end)[text]
    found = write_run(
        tmp_path / "run", videos, questions=[row],
        relevance=[{**row, "segments": [[inside], [1000]], "relevant": [[0.9, 0.8], [0.9, 0.9]]}],
        trajectories=[
            {"video": VIDEO, "category": "TA", "quiet": False, "offline": False, "turns": turns},
            {"video": VIDEO, "category": "TA", "quiet": False, "offline": True, "turns": turns},
            {"video": VIDEO, "category": "TA", "quiet": False, "offline": False, "turns": [{"t": 0.0, "query": "Why so?", "reply": "x"}]},
        ],
    )  # fmt: skip
    assert found["category is the genre's"]["TA"] == {"share": 1.0, "of": 1}
    assert found["world can answer it"]["all"] == {"share": 0.5, "of": 2}
    assert found["answer after the video"]["TA"] == {"share": 1.0, "of": 1}
    assert found["relevance"]["TA"] == {"share": 0.5, "of": 2}
    assert found["relevant found"]["TA"]["share"] == 1.0 and found["found is relevant"]["TA"]["share"] == 0.5
    assert found["world can be asked"]["TA"] == {"share": 0.5, "of": 2}, "of the streams; what was asked offline is none"
    assert found["reply is true"]["TA"] == {"share": 0.5, "of": 2}


def test_a_letter_stands_for_its_option():
    assert put_with("Which color?\nA. red\nB. a. b\nAnswer with the letter.") == ("Which color?", {"A": "red", "B": "a. b"})
    assert put_with("Which color?") == ("Which color?", {})


def test_clips_of_unknown_truth_are_refused(tmp_path):
    (tmp_path / "holiday.mp4").write_bytes(b"")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holiday\.mp4"):
        audit(tmp_path, tmp_path)
