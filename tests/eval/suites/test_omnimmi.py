"""OmniMMI: its six files as released, and its scores."""

import json

import pytest

from evostreaming.engine.errors import VideoError
from evostreaming.eval.discretize import spans
from evostreaming.eval.episodes import read_episodes, write_episodes
from evostreaming.eval.errors import SchemaError
from evostreaming.eval.judges import LexicalJudge
from evostreaming.eval.run_folder import find_videos
from evostreaming.eval.scoring import score_episode
from evostreaming.eval.suites import omnimmi
from evostreaming.eval.sweep_frames import open_video
from evostreaming.eval.sweep_plan import plan_watches


class AnyLength(dict):
    """Every video is 100 s long."""

    def __contains__(self, video):
        return True

    def get(self, video, default=None):
        return 100.0


def test_the_whole_release(data_dir, tmp_path):
    episodes = omnimmi.read(data_dir("omnimmi"), lengths=AnyLength())
    count = {t: [e for e in episodes if e.task == t] for t in omnimmi.FILES}
    assert {t: (len(e), sum(len(x.queries) for x in e)) for t, e in count.items()} == {
        "SG": (300, 704), "MD": (300, 786), "SI": (200, 200), "AP": (200, 200), "PA": (200, 200), "PT": (200, 200),
    }  # fmt: skip
    assert all(e.regime == ("FAR" if e.task == "PA" else "RT") for e in episodes)
    assert all(bool(e.targets) == (e.task != "PT") for e in episodes)
    assert not any("##" in q.text for e in episodes for q in e.queries)
    assert all(e.t_end == 150 for e in count["PA"]), "alerting streams run to the end of their clips"
    write_episodes(tmp_path / "e", episodes)
    assert read_episodes(tmp_path / "e") == episodes


def test_a_conversation_is_one_stream_asked_in_the_middle_of_each_state(data_dir):
    episode = omnimmi.read(data_dir("omnimmi") / "dynamic_state_grounding.json")[0]
    assert [(q.t_q, t.window, t.answer) for q, t in zip(episode.queries, episode.targets)] == [
        (11.0, (11.0, 13.0), "Connect branches"), (34.0, (34.0, 49.0), "Wind the junction"), (71.0, (71.0, 92.0), "Cut branches"),
    ]  # fmt: skip
    assert [s.first for s in spans(episode)] == [5, 17, 35]


def test_conversations_score_all_steps_and_prefixes(data_dir, make_trace):
    episodes = omnimmi.read(data_dir("omnimmi") / "dynamic_state_grounding.json")[:2]
    one, other = episodes
    right = {s.first: t.answer for s, t in zip(spans(one), one.targets)}
    traces = {one.episode_id: make_trace(one, {**right, 17: "no idea"}), other.episode_id: make_trace(other, {})}
    assert omnimmi.official(episodes[:1], traces, LexicalJudge())["SG"] == {
        "all": 0.0, "steps": [100.0, 0.0, 100.0], "cumulative": [100.0, 0.0, 0.0],
    }  # fmt: skip
    assert omnimmi.official([other], traces, LexicalJudge())["SG"]["all"] == 0.0
    traces[one.episode_id] = make_trace(one, right)
    assert omnimmi.official(episodes[:1], traces, LexicalJudge())["SG"]["all"] == 100.0
    assert score_episode(one, traces[one.episode_id], LexicalJudge()).S == 1.0


@pytest.mark.parametrize(
    ("times", "expected"),
    [([126, 131], (1, 1, 5 / 26)), ([], (0, 0, 0)), ([124, 150], (1, 1, 1)), ([100, 137], (0, 0.5, 13 / 50)), ([10, 20], (0, 0, 0)),
     ([130], (1, 1, 0))],
)  # fmt: skip
def test_alerting_scores(times, expected):
    assert omnimmi.alerting(times, (124, 150)) == pytest.approx(expected)


def test_the_predictions_of_the_benchmark_format(data_dir):
    row = json.loads((data_dir("synthetic") / "omnimmi_pred" / "pa.jsonl").read_text())
    assert omnimmi.alerting(row["pred"], row["answer"])[:2] == (1.0, 1.0)


def test_any_text_is_an_alert_and_only_its_time_counts(data_dir, make_trace):
    episode = omnimmi.read(data_dir("omnimmi") / "proactive_alerting.json")[0]
    score = lambda said: score_episode(episode, make_trace(episode, said), LexicalJudge())  # noqa: E731
    assert (score({62: "Look!"}).S, score({62: "Look!"}).E) == (1.0, 1.0)
    assert (score({10: "Look!"}).S, score({10: "Look!"}).classes) == (0.0, {"early": 1})


def test_silence_is_the_right_answer_to_a_closing_remark(data_dir, make_trace):
    episodes = omnimmi.read(data_dir("omnimmi") / "proactive_turntaking.json", lengths=AnyLength())[:4]
    first = spans(episodes[0])[0].first
    said = [{}, {first: "<2> ok"}, {first: "You are welcome."}, {first - 1: "unasked"}]
    traces = {e.episode_id: make_trace(e, s) for e, s in zip(episodes, said)}
    assert omnimmi.official(episodes, traces, LexicalJudge()) == {"PT": {"accuracy": 75.0}}
    assert score_episode(episodes[0], traces[episodes[0].episode_id], LexicalJudge()).Q == 1.0
    assert episodes[0].queries[0].text.endswith("User: Oh well, it is what it is. No point in overthinking it.")
    assert "Assistant: He escapes to the outdoors" in episodes[0].queries[0].text


def test_missing_videos_are_all_named_at_once(data_dir):
    with pytest.raises(SchemaError, match=r"200 videos are in neither clips/ nor videos/.* and 195 more"):
        omnimmi.read(data_dir("omnimmi") / "action_prediction.json")
    with pytest.raises(SchemaError, match="record 0, field video: .* has no length"):
        omnimmi.read(data_dir("omnimmi") / "action_prediction.json", lengths={"other.mp4": 3.0})


def test_missing_videos_of_all_files_are_named_at_once(tmp_path):
    (tmp_path / "action_prediction.json").write_text(json.dumps([action("ap.mp4")]))
    (tmp_path / "proactive_turntaking.json").write_text(json.dumps([{"video": "pt.mp4", "conversation": []}]))
    with pytest.raises(SchemaError, match=r"2 videos are in neither clips/ nor videos/.*: ap\.mp4, pt\.mp4"):
        omnimmi.read(tmp_path)


def action(video):
    return {"video": video, "question": "What next?", "answer": "stir", "vocab": ["stir", "boil"]}


# The last one says nowhere how long it is.
@pytest.mark.parametrize(("file", "options"), [("x_9.mp4", {}), ("x_9.mkv", {}), ("x_9.mkv", {"live": "1"})])
def test_lengths_are_measured_from_the_files(tmp_path, file, options):
    av = pytest.importorskip("av")
    (tmp_path / "action_prediction.json").write_text(json.dumps([action(file)]))
    (tmp_path / "clips").mkdir()
    with av.open(str(tmp_path / "clips" / file), "w", options=options) as out:
        video = out.add_stream("mpeg4", rate=1)
        video.width = video.height = 32
        for _ in range(12):
            out.mux(video.encode(av.VideoFrame(32, 32, "yuv420p")))
        out.mux(video.encode())
    (episode,) = omnimmi.read(tmp_path)
    assert (episode.t_end, episode.queries[0].t_q, episode.video) == (
        pytest.approx(12, abs=1.1),
        pytest.approx(7, abs=1.1),
        f"clips/{file}",
    )


@pytest.mark.parametrize("content", [b"", b"not a video"])
def test_a_damaged_video_fails_when_it_is_streamed_and_not_before(tmp_path, content):
    pytest.importorskip("av")
    (tmp_path / "action_prediction.json").write_text(json.dumps([action("bad.mp4")]))
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "bad.mp4").write_bytes(content)
    (episode,) = omnimmi.read(tmp_path)
    (watch,) = plan_watches([episode], find_videos(tmp_path, [episode]), alone=True)
    with pytest.raises(VideoError, match=r"bad\.mp4"):
        open_video(watch)


@pytest.mark.parametrize(
    ("file", "row", "says"),
    [
        (
            "dynamic_state_grounding.json",
            {"video": "v", "qa": [{"question": "?", "answer": "a", "timestamp": "9-13"}]},
            r"qa\[0\]\.timestamp",
        ),
        ("dynamic_state_grounding.json", {"video": "v", "qa": []}, "at least one turn"),
        ("proactive_alerting.json", {"video": "v", "question": "?", "answer": [9, 3]}, "before it begins"),
        ("proactive_turntaking.json", {"video": "v", "conversation": []}, "conversation: is empty"),
        ("speaker_identification.json", {"video": "v", "question": "?", "answer": "a", "timestamp": "3"}, "expected a number"),
    ],
)
def test_a_wrong_record_is_named(tmp_path, file, row, says):
    (tmp_path / file).write_text(json.dumps([row]))
    with pytest.raises(SchemaError, match=f"record 0, field .*{says}"):
        omnimmi.read(tmp_path, lengths=AnyLength())


def test_a_file_of_another_name_is_refused(tmp_path):
    with pytest.raises(SchemaError, match=r"dynamic_state_grounding\.json"):
        omnimmi.read(tmp_path)
