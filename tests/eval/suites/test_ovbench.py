"""OVBench: the whole release, and the benchmark's way of reading a reply."""

import json
from collections import Counter

import pytest

from evostreaming.eval.episodes import read_episodes, write_episodes
from evostreaming.eval.errors import SchemaError
from evostreaming.eval.suites import ovbench

ROW = {
    "middle_frame_timestamp": 945.0, "question": "Still 2?", "answer": "No", "sub_answer_type": "Hallucination-2",
    "answer_type": "Hallucination", "video": "1j20", "candidates": ["Yes", "No"], "start": 0.0, "end": 50.0, "fps": 1,
}  # fmt: skip


def write(path, *rows):
    path.write_text(json.dumps(rows))
    return path


def test_a_question_is_asked_at_its_end(tmp_path):
    (episode,) = ovbench.read(write(tmp_path / "ava.json", ROW))
    assert (episode.regime, episode.task, episode.t_start, episode.t_end, episode.queries[0].t_q) == ("RT", "Hallucination-2", 0, 54, 50)
    assert (episode.targets[0].answer, episode.meta["subset"]) == ("B", "ava")
    assert episode.queries[0].text.startswith("Question at 50s: Still 2?\nOptions:\n(A) Yes\n(B) No\nAnswer")
    assert ovbench.read(tmp_path / "ava.json", window_s=32)[0].t_start == 18


def test_an_answer_outside_its_candidates_is_named(tmp_path):
    with pytest.raises(SchemaError, match="record 1, field answer: 'Maybe' is not among"):
        ovbench.read(write(tmp_path / "ava.json", ROW, {**ROW, "answer": "Maybe"}))


def test_two_candidates_of_one_text_are_both_right(tmp_path):
    (episode,) = ovbench.read(write(tmp_path / "ava.json", {**ROW, "candidates": ["No", "Yes", "No"]}))
    assert (episode.targets[0].answer, episode.targets[0].aliases) == ("A", ("C",))


@pytest.mark.parametrize(
    ("reply", "letter"), [("B. No", "B"), (" (C) x", "C"), ("A dog", "A"), ("It is D", "D"), ("none", None), ("Apple B", "B"), ("F", None)]
)
def test_how_the_benchmark_reads_a_reply(reply, letter):
    assert ovbench.picked(reply) == letter


def test_cells_and_subsets_are_averaged_apart(tmp_path, make_trace):
    rows = [ROW, ROW, {**ROW, "sub_answer_type": "PastMemory-1", "answer_type": "PastMemory"}]
    episodes = ovbench.read(write(tmp_path / "ava.json", *rows, ROW))
    traces = {e.episode_id: make_trace(e, {25: text} if text else {}) for e, text in zip(episodes, ["B", "A", "B", None])}
    scores = ovbench.official(episodes, traces)
    assert scores["cells"] == {"Hallucination-2": 50.0, "PastMemory-1": 100.0} and scores["mean"] == 75.0
    assert scores["subsets"] == {"ava": pytest.approx(200 / 3)}


def test_the_whole_release(data_dir, tmp_path):
    episodes = ovbench.read(data_dir("ovbench"))
    assert len(episodes) == len({e.episode_id for e in episodes}) == 7005
    assert Counter(e.meta["subset"] for e in episodes) == {"tao": 1947, "coin": 1948, "hirest": 1714, "ava": 1396}
    assert Counter(e.meta["answer_type"] for e in episodes) == {
        "PastMemory": 1692, "Hallucination": 1609, "TemporalPerception": 1445, "FuturePrediction": 1064, "SpatialPerception": 643,
        "SpatioTemporalPerception": 552,
    }  # fmt: skip
    assert len({e.task for e in episodes}) == 20
    write_episodes(tmp_path / "e", episodes)
    assert read_episodes(tmp_path / "e") == episodes
