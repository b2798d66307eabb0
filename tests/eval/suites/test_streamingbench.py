"""StreamingBench: real annotation files with all their odd time stamps and options."""

import json
from collections import Counter

import pytest

from evostreaming.eval.discretize import spans
from evostreaming.eval.episodes import read_episodes, write_episodes
from evostreaming.eval.errors import SchemaError
from evostreaming.eval.floors import make_trace as floor_trace
from evostreaming.eval.judges import LexicalJudge
from evostreaming.eval.scoring import score_episode
from evostreaming.eval.suites import streamingbench

QUESTION = {
    "task_type": "Counting",
    "question": "How many?",
    "time_stamp": "0:01:05",
    "answer": "C",
    "options": ["A. 1", "B. 2", "C. 3", "D. 4"],
}


def write(path, *entries):
    path.write_text(json.dumps(list(entries)))
    return path


def entry(*questions, video="./videos/sample_1_real.mp4"):
    return {"time": "[0:00:00 - 0:02:00]", "questions": list(questions), "video_path": video}


def test_a_multiple_choice_question(tmp_path):
    (episode,) = streamingbench.read(write(tmp_path / "q.json", entry(QUESTION)))
    assert (episode.regime, episode.task, episode.video, episode.video_id) == (
        "RT",
        "Counting",
        "videos/sample_1_real.mp4",
        "sample_1_real",
    )
    assert (episode.t_start, episode.t_end, episode.queries[0].t_q, episode.targets[0].answer) == (0, 69, 65, "C")
    assert episode.queries[0].options == ("1", "2", "3", "4")
    assert episode.queries[0].text.endswith("Question: How many?\n\nOptions:\nA. 1\nB. 2\nC. 3\nD. 4\n\nThe best option is:")
    (short,) = streamingbench.read(tmp_path / "q.json", context_s=60)
    assert short.t_start == 5


def test_a_sequential_question_carries_the_earlier_ones_with_their_gold_answers(tmp_path):
    sqa = {**QUESTION, "task_type": "Sequential Question Answering", "options": ["x", "y", "z", "w"]}
    video = [entry(sqa), entry({**sqa, "time_stamp": "00:02:00", "question": "And now?"})]
    first, second, other = streamingbench.read(write(tmp_path / "q.json", video, [entry(sqa)]))
    assert "contextual" not in first.queries[0].text + other.queries[0].text
    assert (
        "contextual information: At timestamp 0:01:05, the following question and answer occurred: Question: How many?; "
        "Options: A. x, B. y, C. z, D. w; Answer: C; \n\nQuestion: And now?" in second.queries[0].text
    )


@pytest.mark.parametrize(("stamp", "t"), [("00:00:31", 31), ("0:07:40", 460), ("00:12450", 12450), ("00:24", 24), ("00:00:8", 8)])
def test_time_stamps_read_as_the_benchmark_does(stamp, t):
    assert streamingbench.seconds(stamp) == t


@pytest.mark.parametrize(
    ("pieces", "options"),
    [
        (["A. a", "", "B. b", "C. c", "", "D. d"], ("a", "b", "c", "d")),
        (["A. a", "B. b", "and b", "C. c", "D. d"], ("a", "b, and b", "c", "d")),
        (["A. a", "B. b", "C. c", "D. d", "D. again", "E. .", "F. rubbish"], ("a", "b", "c", "d")),
        (["a", "b", "c", "d"], ("a", "b", "c", "d")),
        (["A. a", "B. b", "C. c"], None),
        (["a", "b", "c", "d", "e"], None),
    ],
)
def test_broken_option_lists_are_mended_or_refused(pieces, options):
    assert streamingbench.four_options(pieces) == options


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"time_stamp": "soon"}, r"questions\[0\]\.time_stamp: 'soon' is not a time stamp"),
        ({"answer": "E"}, r"questions\[0\]\.answer: 'E' is not one of A, B, C, D"),
        ({"options": ["A. 1"]}, r"questions\[0\]\.options: expected four options"),
        ({"question": None}, r"questions\[0\]\.question: is null"),
    ],
)
def test_a_wrong_question_names_record_and_field(tmp_path, change, says):
    with pytest.raises(SchemaError, match="record 1, field " + says):
        streamingbench.read(write(tmp_path / "q.json", entry(QUESTION), entry({**QUESTION, **change})))


def test_the_csv_of_the_dataset_page(tmp_path):
    (tmp_path / "Real_Time_Visual_Understanding.csv").write_text(
        "question_id,task_type,question,time_stamp,answer,options,frames_required,temporal_clue_type\n"
        "Real_Time_sample_12_1,Object Perception,\"What, now?\",00:00:30,B,\"['A. x', 'B. y', 'C. z', 'D. w']\",,Concurrent\n"
        "Real_Time_sample_12_2,Counting,How many?,00:00:40,A,\"['A. x\n"
    )
    with pytest.raises(SchemaError, match="line 3, field options: is not a Python list"):
        streamingbench.read(tmp_path / "Real_Time_Visual_Understanding.csv")
    lines = (tmp_path / "Real_Time_Visual_Understanding.csv").read_text().splitlines()[:2]
    (tmp_path / "Real_Time_Visual_Understanding.csv").write_text("\n".join(lines))
    (episode,) = streamingbench.read(tmp_path / "Real_Time_Visual_Understanding.csv")
    assert (episode.video, episode.task) == ("Real_Time_Visual_Understanding/sample_12/video.mp4", "Object Perception")
    assert (episode.targets[0].answer, episode.queries[0].options) == ("B", ("x", "y", "z", "w"))


@pytest.mark.parametrize(
    ("file", "episodes", "videos"),
    [("questions_real_subset.json", 900, None), ("questions_real_stream.json", 2495, 498), ("questions_omni.json", 1500, 300),
     ("questions_omni_stream.json", 1500, 300), ("questions_sqa.json", 250, 50), ("questions_sqa_stream.json", 250, 50),
     ("questions_proactive.json", 250, 50), ("questions_proactive_50.json", 51, 50)],
)  # fmt: skip
def test_the_real_files_become_valid_episodes(data_dir, tmp_path, file, episodes, videos):
    made = streamingbench.read(data_dir("streamingbench") / file)
    assert len(made) == len({e.episode_id for e in made}) == episodes
    assert videos is None or len({e.video for e in made}) == videos
    write_episodes(tmp_path / "e", made)
    assert read_episodes(tmp_path / "e") == made


def test_the_malformed_stamps_are_marked(data_dir):
    made = streamingbench.read(data_dir("streamingbench") / "questions_real_stream.json")
    odd = {e.meta["malformed_time_stamp"]: e.queries[0].t_q for e in made if "malformed_time_stamp" in e.meta}
    assert odd == {"00:12450": 12450, "00:24": 24, "00:00:8": 8}
    counts = Counter(e.task for e in made)
    assert counts["Object Recognition"] == 367 and counts["Counting"] == 193 and counts["Prospective Reasoning"] == 108


def test_a_folder_gives_every_file_of_the_release_in_it(data_dir):
    made = streamingbench.read(data_dir("streamingbench"))
    assert len(made) == 1500 + 250 + 250 and sum(e.regime == "FAR" for e in made) == 250


@pytest.mark.parametrize(
    ("file", "policy", "time"),
    [("questions_proactive.json", "constant-delay-7s", 52.4), ("questions_proactive_50.json", "constant-delay-7s", 58.8),
     ("questions_proactive.json", "always-silent", 0.0), ("questions_proactive.json", "oracle", 100.0)],
)  # fmt: skip
def test_blind_floors_of_proactive_output(data_dir, file, policy, time):
    episodes = streamingbench.read(data_dir("streamingbench") / file, fps=1.0)
    traces = {e.episode_id: floor_trace(e, policy) for e in episodes}
    assert round(streamingbench.official(episodes, traces)["proactive"]["time"], 1) == time


def test_speaking_at_the_first_poll_and_the_leaked_gold(data_dir):
    episodes = streamingbench.read(data_dir("streamingbench") / "questions_proactive.json", fps=1.0)
    first = [streamingbench.proactive_verdict(e.targets[0].t_star, (e.queries[0].t_q + 1, ""), "x")[0] for e in episodes]
    assert round(100 * sum(first) / 250, 1) == 4.4
    assert sum(e.targets[0].answer in e.queries[0].text for e in episodes) == 244


def test_proactive_text_must_hold_the_wanted_words(data_dir, make_trace):
    episode = streamingbench.read(data_dir("streamingbench") / "questions_proactive_50.json", fps=1.0)[0]
    k = spans(episode)[0].goals[0].k
    assert (episode.targets[0].answer, episode.queries[0].text[-12:-2], k) == ("Break point", "reak point", 7)
    score = lambda text: score_episode(episode, make_trace(episode, {k: text}), LexicalJudge()).S  # noqa: E731
    assert (episode.t_start, episode.t_end, episode.targets[0].window) == (618, 629, (625, 627))
    assert (score("Now: break point!"), score("point of break")) == (1.0, 0.0)
    official = lambda said: streamingbench.official([episode], {episode.episode_id: make_trace(episode, said)})["proactive"]  # noqa: E731
    assert official({k + 2: "Break point"}) == {"time": 100.0, "answer": 100.0}
    assert official({k + 2: "break point"}) == {"time": 100.0, "answer": 0.0}
    assert official({k - 3: "Break point", k: "Break point"}) == {"time": 0.0, "answer": 0.0}


def test_multiple_choice_counts_the_first_character_and_leaves_silence_out(tmp_path, make_trace):
    episodes = streamingbench.read(write(tmp_path / "q.json", *[entry(QUESTION)] * 4))
    said = ["C. 3", "Cats", "A", None]
    traces = {e.episode_id: make_trace(e, {32: text} if text else {}) for e, text in zip(episodes, said)}
    assert streamingbench.official(episodes, traces)["tasks"] == {"Counting": pytest.approx(200 / 3)}
