"""ProactiveVideoQA, ESTP-Bench and SPOT-Bench: schema clones, and the anchor values of their scores."""

import json

import pytest

from evostreaming.eval.episodes import read_episodes, write_episodes
from evostreaming.eval.errors import SchemaError
from evostreaming.eval.floors import make_trace as floor_trace
from evostreaming.eval.judges import LexicalJudge
from evostreaming.eval.suites import estp, proactivevideoqa, spot

JUDGE = LexicalJudge()


def same_after_writing(episodes, tmp_path):
    write_episodes(tmp_path / "e", episodes)
    return read_episodes(tmp_path / "e") == episodes


def test_proactivevideoqa_turns_are_targets(data_dir, tmp_path):
    episodes = proactivevideoqa.read(data_dir("synthetic") / "proactivevideoqa")
    (episode,) = episodes
    assert (episode.task, episode.regime, episode.video, episode.t_end) == ("WEB", "FAR", "WEB/videos/syn_web_0.mp4", 30)
    assert [(t.t_star, t.window, t.answer) for t in episode.targets] == [
        (4, (4, 14), "Flour is added."),
        (16, (16, 26), "Two eggs are added."),
    ]
    assert same_after_writing(episodes, tmp_path)


@pytest.mark.parametrize(
    ("points", "omega", "value"),
    [([], 0.5, 0.25), ([(0, 2)], 0.5, 1), ([(4, 2)], 0, 0.7), ([(4, 2)], 0.5, 0.85), ([(4, 2)], 1, 1), ([(0, 0)], 0.5, 0),
     ([(2, 1), (6, 2)], 0.5, 0.825)],
)  # fmt: skip
def test_pauc_anchors(points, omega, value):
    assert proactivevideoqa.pauc((0, 10), points, omega) == pytest.approx(value)
    assert proactivevideoqa.pauc((50, 60), [(t + 50, s) for t, s in points], omega) == pytest.approx(value)


def test_pauc_of_traces(data_dir, make_trace):
    episodes = proactivevideoqa.read(data_dir("synthetic") / "proactivevideoqa", fps=1.0)
    name = episodes[0].episode_id
    pauc = lambda said: proactivevideoqa.official(episodes, {name: make_trace(episodes[0], said)}, JUDGE)["WEB"]  # noqa: E731
    assert pauc({}) == {"0": 25.0, "0.5": 25.0, "1": 25.0}
    assert pauc({4: "Flour is added.", 16: "Two eggs are added."}) == {"0": 100.0, "0.5": 100.0, "1": 100.0}
    assert pauc({8: "Flour is added.", 20: "Two eggs are added."}) == pytest.approx({"0": 70.0, "0.5": 85.0, "1": 100.0})
    # Judged together with what was said before: the second reply completes the first.
    assert (pauc({16: "Two"})["1"], pauc({16: "Two", 17: "added"})["1"]) == (37.5, 62.5)
    assert pauc({1: "Flour is added."}) == pauc({}), "outside the reply spans nothing counts"


def test_a_worse_reply_after_the_event_does_not_undo_a_good_one(data_dir, make_trace):
    episodes = proactivevideoqa.read(data_dir("synthetic") / "proactivevideoqa", fps=1.0)
    last_word = lambda question, golds, text: float(text.endswith("good"))  # noqa: E731
    pauc = lambda said: proactivevideoqa.official(episodes, {episodes[0].episode_id: make_trace(episodes[0], said)}, last_word)  # noqa: E731
    assert pauc({4: "good", 10: "bad"}) == pauc({4: "good"}), "the event ended at 8 s"
    assert pauc({4: "good", 7: "bad"})["WEB"]["0"] < pauc({4: "good"})["WEB"]["0"]


def test_pauc_is_none_while_a_verdict_is_missing(data_dir):
    episodes = proactivevideoqa.read(data_dir("synthetic") / "proactivevideoqa", fps=1.0)
    traces = {e.episode_id: floor_trace(e, "oracle") for e in episodes}
    assert proactivevideoqa.official(episodes, traces, lambda *item: None) == {"WEB": None}


def test_subtitles_do_not_become_questions(tmp_path):
    user = lambda t, text: {"role": "user", "content": text, "time": t}  # noqa: E731
    row = {"video": "v.mp4", "question_id": "q", "duration": 30, "conversation": [user(0, "Why?"), user(5, "a subtitle")], "answer": []}
    (tmp_path / "TV").mkdir()
    (tmp_path / "TV" / "anno.json").write_text(json.dumps([row]))
    (episode,) = proactivevideoqa.read(tmp_path)
    assert [q.text for q in episode.queries] == ["Why?"] and episode.meta["subtitles"] == [[5, "a subtitle"]]


def test_estp_intervals_are_targets(data_dir, tmp_path):
    episodes = estp.read(data_dir("synthetic") / "estp")
    (episode,) = episodes
    assert (episode.task, episode.t_start, episode.t_end, episode.fps) == ("Object Recognition", 100, 160, 2.0)
    assert [t.window for t in episode.targets] == [(110, 114), (140, 140)]
    assert same_after_writing(episodes, tmp_path)


def test_estp_clips_of_the_goal_step_part(tmp_path):
    row = {"start_time": 3, "end_time": 9, "Task Type": "Task Understanding", "question": "?", "conversation": []}
    (tmp_path / "estp_bench_sq.json").write_text(json.dumps({"v": {"c": [row]}}))
    assert [(e.t_start, e.t_end) for e in estp.read(tmp_path)] == [(3, 9)]
    (tmp_path / "estp_bench_sq.json").write_text(json.dumps({"v": {"c": [{**row, "end_time": 1}]}}))
    with pytest.raises(SchemaError, match=r"video v, field c\[0\]\.end_time: is 1, before"):
        estp.read(tmp_path)


@pytest.mark.parametrize(
    ("predictions", "score"),
    [
        ([(10, {0: 5})], 1.0),
        ([(12, {0: 5}), (40, {})], 0.6316),
        ([], 0.0),
        ([(9, {0: 5}), (10, {0: 5}), (40, {})], 0.6585),
        ([(8.9, {})], 0.0),
    ],
)
def test_estp_f1_anchors(predictions, score):
    assert estp.estp_f1(predictions, [(10, 14, 10)]) == pytest.approx(score, abs=5e-5)


def test_estp_of_traces(data_dir, make_trace):
    episodes = estp.read(data_dir("synthetic") / "estp")
    name = episodes[0].episode_id
    f1 = lambda said: estp.official(episodes, {name: make_trace(episodes[0], said)}, JUDGE)["mean"]  # noqa: E731
    assert f1({20: "A red mug.", 80: "A red pen."}) == 100.0
    assert f1({20: "A red mug."}) == pytest.approx(100 * 2 / 3)
    assert f1({}) == 0.0
    assert f1({20: "A red mug.", 80: "A red pen.", 0: "hello"}) == pytest.approx(80)
    assert estp.best_moment("Object Recognition", 2, 8) == 2 and estp.best_moment("Action Recognition", 2, 8) == 5
    # Two names of the released files that differ from the paper's.
    assert estp.best_moment("Object Function", 2, 8) == estp.best_moment("Information Function", 2, 8) == 2


def turn(role, t, text, start=None, end=None):
    """A turn of a conversation as the authors' code writes it (EyeWO, estp_gen/contextual_qa/refine_conv_system_prompt.txt)."""
    return {"role": role, "content": text, "time": t, "task_id": 0} | ({} if start is None else {"start_time": start, "end_time": end})


CONVERSATION = {
    "clip_start_time": 60.0, "clip_end_time": 120.0, "Task Type": " Task Relative Context", "conversation": [
        turn("user", 61.5, "Where is the lid put down?"), turn("assistant", 64.0, "On the shelf.", 60.5, 67.5),
        turn("user", 80.0, "When do I take it again?"), turn("Assistant", 91.0, "You take the lid.", 90.0, 92.0),
        turn("assistant", 101.0, "You take the lid.", 100.0, 102.0)],
}  # fmt: skip


def conversations(tmp_path, row):
    (tmp_path / "estp_bench_cq_v3.json").write_text(json.dumps({"v": {"c": [row]}}))
    return estp.read(tmp_path)


def test_estp_questions_of_a_conversation_are_asked_in_their_turn(tmp_path):
    (episode,) = conversations(tmp_path, CONVERSATION)
    assert (episode.task, episode.t_start, episode.t_end) == ("Task Relative Context", 60, 120)
    assert [(q.t_q, q.text) for q in episode.queries] == [(61.5, "Where is the lid put down?"), (80, "When do I take it again?")]
    # The first interval began before its question: nothing can be answered before it is asked.
    assert [(t.qid, t.t_star, t.window) for t in episode.targets] == [
        ("q0", 61.5, (61.5, 67.5)), ("q1", 90, (90, 92)), ("q1", 100, (100, 102)),
    ]  # fmt: skip
    assert same_after_writing([episode], tmp_path)
    # Both files in one folder are one suite.
    single = {"start_time": 3, "end_time": 9, "Task Type": "Object Function", "question": "?", "conversation": []}
    (tmp_path / "estp_bench_sq.json").write_text(json.dumps({"v": {"c": [single]}}))
    assert [e.episode_id for e in estp.read(tmp_path)] == ["estp-v-c-0", "estp-cq-v-c-0"]


def test_estp_replies_of_a_conversation_are_judged_by_the_question_they_answer(tmp_path, make_trace):
    (episode,) = conversations(tmp_path, CONVERSATION)
    asked = []

    def judge(question, golds, text):
        asked.append((question, golds[0]))
        return float(text == golds[0])

    f1 = lambda said: estp.official([episode], {episode.episode_id: make_trace(episode, said)}, judge)["mean"]  # noqa: E731
    right = {10: "On the shelf.", 2 * 31: "You take the lid.", 2 * 41: "You take the lid.", 30: "Hello."}
    # At 65 s, one second off the middle of the interval as it was annotated, 10 s with its tolerances; and one false alarm.
    worth = (5 + 5 * 0.9) / 10 + 1 + 1
    assert f1(right) == pytest.approx(100 * 2 * worth / (2 * worth + 1))
    assert set(asked) == {("Where is the lid put down?", "On the shelf."), ("When do I take it again?", "You take the lid.")}
    worth = (5 + 5 * 0.9) / 10 + ((5 + 5 * 0.9) / 10 + (1 + 5 * 0.9) / 10) / 2 + 1  # a right and a wrong one, mean
    said = {10: "On the shelf.", 61: "You take the lid.", 63: "No.", 82: "You take the lid.", 30: "Hello."}
    assert f1(said) == pytest.approx(100 * 2 * worth / (2 * worth + 1))
    assert f1({2 * 55: "You take the lid."}) == 0.0, "outside all intervals"
    assert estp.official([episode], {episode.episode_id: make_trace(episode, right)}, lambda *item: None)["mean"] is None


@pytest.mark.parametrize(
    ("turns", "says"),
    [
        ([turn("assistant", 64.0, "x", 60.5, 67.5), turn("user", 70.0, "?")], r"conversation\[0\]\.role: 'assistant' comes before"),
        ([turn("user", 70.0, "?"), turn("stream", 71.0, "x")], r"conversation\[1\]\.role: 'stream' is neither user nor assistant"),
        ([turn("user", None, "?")], r"conversation\[0\]\.time: is null"),
        ([turn("user", 70.0, "?"), turn("assistant", 80.0, "x", 82.0, 81.0)], r"conversation\[1\]\.end_time: is 81, before"),
    ],
)
def test_estp_names_what_is_wrong_with_a_conversation(tmp_path, turns, says):
    with pytest.raises(SchemaError, match=says):
        conversations(tmp_path, {**CONVERSATION, "conversation": turns})


def test_spot_slots_are_targets(data_dir, tmp_path):
    episodes = spot.read(data_dir("synthetic") / "spot_bench")
    abd, ui = episodes
    assert (abd.task, abd.queries[0].t_q, [(t.window, t.answer) for t in abd.targets]) == (
        "ABD", 0, [((9, 11), "start"), ((24, 26), "end")],
    )  # fmt: skip
    assert (ui.task, ui.queries[0].text, ui.targets[0].aliases) == ("UI", spot.MONITOR, ("Watch out for the bike.",))
    assert same_after_writing(episodes, tmp_path)


SLOT = (1.0, 1.48, 0.74)


@pytest.mark.parametrize(
    ("times", "k", "score", "p", "r", "f1"),
    [
        ([10.0], 5, 1, 1, 1, 1),
        ([12.0], 5, 0.4013, 0.4013, 0.4013, 0.4013),
        ([8.0], 5, 0.7959, 0.7959, 0.7959, 0.7959),
        ([float(i) for i in range(20)], 5, 1, 0.0625, 1, 0.1176),
        ([float(i) for i in range(20)], 1, 0.1282, 0.0064, 0.1282, 0.0122),
    ],
)
def test_spot_anchors(times, k, score, p, r, f1):
    row = spot.summary([spot.timeliness(times, [10.0], SLOT, lambda i, j: 1.0, k)])
    assert [row[x] / 100 for x in ("T-score", "P", "R", "T-F1")] == pytest.approx([score, p, r, f1], abs=5e-5)


def test_spot_of_the_shipped_prediction_format(data_dir, make_trace):
    folder = data_dir("synthetic") / "spot_bench"
    (abd,) = spot.read(folder / "abd.json", fps=2.0)
    events = json.loads((folder / "results" / "abd_mymodel.json").read_text())["0000001"]
    said = {round(2 * e["time"]): e["value"] for e in events if e["type"] == "response"}
    result = spot.official([abd], {abd.episode_id: make_trace(abd, said)}, JUDGE)
    late = spot.closeness(27, 25, SLOT)
    assert result["ABD"]["T-score"] == pytest.approx(100 * (1 + late) / 2) and result["overall"] == result["ABD"]
    nothing = spot.official([abd], {abd.episode_id: make_trace(abd, {20: "Nothing.", 50: "No"})}, JUDGE)
    assert nothing["ABD"] == {"T-score": 0.0, "P": 0.0, "R": 0.0, "T-F1": 0.0}
    wrong = spot.official([abd], {abd.episode_id: make_trace(abd, {20: "end", 50: "start"})}, JUDGE)
    assert wrong["ABD"]["T-F1"] == 0.0


def test_spot_names_what_is_wrong(tmp_path):
    turn = {"question": "?", "ask_time": 0, "response_time": [1.0], "response": []}
    (tmp_path / "sqa.json").write_text(json.dumps({"7": {"turns": [turn]}}))
    with pytest.raises(SchemaError, match=r"video 7, field turns\[0\]\.response: has 0 texts for 1 response times"):
        spot.read(tmp_path)
