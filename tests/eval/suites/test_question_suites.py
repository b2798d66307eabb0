"""ODV-Bench, StreamBench and VStream-QA: schema clones; and what all suites share."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evostreaming.eval.cli import app
from evostreaming.eval.episodes import read_episodes, write_episodes
from evostreaming.eval.errors import SchemaError
from evostreaming.eval.floors import make_trace as floor_trace
from evostreaming.eval.judges import LexicalJudge
from evostreaming.eval.suites import catalog, odvbench, streambench, svbench, vstream_qa
from evostreaming.eval.traces import write_traces

JUDGE = LexicalJudge()


def test_odvbench(data_dir, make_trace):
    (episode,) = odvbench.read(data_dir("synthetic") / "odvbench")
    assert (episode.task, episode.regime, episode.queries[0].t_q, episode.targets[0].answer) == ("RTP", "RT", 18, "A")
    right = odvbench.official([episode], {episode.episode_id: make_trace(episode, {9: "A. red"})})
    assert right["tasks"] == {"RTP": 100.0} and right["subtasks"] == {"RTP/traffic light": 100.0}
    assert odvbench.official([episode], {episode.episode_id: make_trace(episode, {9: "green B"})})["tasks"] == {"RTP": 0.0}


def test_streambench_is_a_conversation(data_dir, make_trace):
    (episode,) = streambench.read(data_dir("synthetic") / "streambench_v03")
    assert (episode.task, [q.t_q for q in episode.queries], episode.t_end) == ("cooking", [12, 40], 44)
    scores = lambda said: streambench.official([episode], {episode.episode_id: make_trace(episode, said)}, JUDGE)  # noqa: E731
    assert scores({6: "A knife.", 20: "Bread"}) == {
        "overall": {"Acc": 50.0, "Sco": 2.5}, "OS": {"Acc": 100.0, "Sco": 5.0}, "LM": {"Acc": 0.0, "Sco": 0.0}, "Coh": 5.0,
    }  # fmt: skip
    assert scores({6: "A knife.", 20: "An onion"})["Coh"] == 0.0


def test_vstream_qa_asks_at_the_end_of_what_was_seen(data_dir, make_trace, tmp_path):
    (episode,) = vstream_qa.read(data_dir("synthetic") / "vstream_qa")
    assert (episode.task, episode.queries[0].t_q, episode.meta["answer_type"]) == ("test_qa_ego4d", 9, "object")
    scores = vstream_qa.official([episode], {episode.episode_id: make_trace(episode, {4: "You opened the fridge"})}, JUDGE)
    assert scores == {"test_qa_ego4d": {"accuracy": 100.0, "score": 5.0}}
    row = {"video_id": "v", "question": "?", "id": "0", "answer": "x", "answer_type": "scene"}
    (tmp_path / "vs_ego.json").write_text(json.dumps([row]))
    with pytest.raises(SchemaError, match="record 0, field end_time: is missing, and so is duration"):
        vstream_qa.read(tmp_path)
    (tmp_path / "vs_ego.json").write_text(json.dumps([{**row, "duration": 60}]))
    assert vstream_qa.read(tmp_path)[0].queries[0].t_q == 60


def test_svbench_chains_are_asked_turn_by_turn_and_once(data_dir, make_trace, tmp_path):
    (episode,) = svbench.read(data_dir("synthetic") / "svbench")
    assert [(q.t_q, q.text) for q in episode.queries] == [
        (20, "Who enters?"), (22, "What does she carry?"), (40, "Where does she put it?"),
    ]  # fmt: skip
    assert (episode.video, episode.t_end) == ("Video/syn.mp4", 44)
    said = {10: "A woman.", 11: "A bag.", 20: "In the sink"}
    assert svbench.official([episode], {episode.episode_id: make_trace(episode, said)}, JUDGE)["OS"] == pytest.approx(200 / 3)

    chain = {"questions": ["a?", "b?"], "answers": ["x", "y"]}
    stamps = {"qac_timestamps_start": "00:00:00.000", "qac_timestamps_end": "00:01:05.500"}
    (tmp_path / "v.json").write_text(json.dumps([{"images": [], "chain": chain, **stamps}] * 2))
    assert [q.t_q for q in svbench.read(tmp_path, fps=1.0)[0].queries] == [65.5, 66.5], "a chain that comes twice is asked once"
    (tmp_path / "v.json").write_text(json.dumps([{"chain_1": {**chain, **stamps, "answers": ["x"]}}]))
    with pytest.raises(SchemaError, match=r"record 0, field chain_1\.answers: has 1 texts for 2 questions"):
        svbench.read(tmp_path)
    (tmp_path / "v.json").write_text(json.dumps([{"chain_1": {**chain, "qac_timestamps_end": "65"}}]))
    with pytest.raises(SchemaError, match="'65' is not a time stamp"):
        svbench.read(tmp_path)


PLACES = {
    "ovobench": "ovobench", "ovo_timing": "synthetic/ovo_timing", "streamingbench": "streamingbench", "ovbench": "ovbench",
    "odvbench": "synthetic/odvbench", "proactivevideoqa": "synthetic/proactivevideoqa", "omnimmi": "omnimmi/proactive_alerting.json",
    "estp": "synthetic/estp", "svbench": "synthetic/svbench", "spot": "synthetic/spot_bench", "streambench": "synthetic/streambench_v03",
    "vstream_qa": "synthetic/vstream_qa",
    "livesports3k": "synthetic/livesports3k/LiveSports-3K-CC.sample.json",
}  # fmt: skip


# The world's files are made, not downloaded; the clone of Inf-Streams is so short that one answer is chatter. Both have tests of their own.
@pytest.mark.parametrize("suite", [suite for suite in catalog.SUITES if suite not in ("world", "infstreams")])
def test_every_suite_goes_from_its_files_to_its_scores(data_dir, tmp_path, suite):
    run = lambda *args: CliRunner().invoke(app, list(map(str, args)))  # noqa: E731
    made = run("episodes", suite, data_dir(PLACES[suite]), tmp_path / "e")
    assert made.exit_code == 0, made.output
    episodes = read_episodes(tmp_path / "e")[:40]
    assert {e.suite for e in episodes} == {suite}
    write_episodes(tmp_path / "e", episodes)
    write_traces(tmp_path / "t", [floor_trace(e, "oracle", "run") for e in episodes])
    result = run("score", tmp_path / "e", tmp_path / "t", "--json")
    assert result.exit_code == 0, result.output
    card = json.loads(result.stdout)
    assert card["overall"]["S"] == pytest.approx(100), "the oracle answers everything"
    module = catalog.load_suite(suite)
    assert (suite in card["official"]) == (hasattr(module, "official") or hasattr(module, "BLIND"))
    assert card["official"].get(suite, {}).get("blind") == getattr(module, "BLIND", None)


def test_every_suite_file_is_in_the_catalog():
    others = {"__init__", "catalog", "replies", "clip_choices", "commentary", "ovobench_offline"}
    files = {p.stem for p in Path(catalog.__file__).parent.glob("*.py")} - others
    assert files == {*catalog.SUITES, *catalog.OFFLINE}


def test_an_unknown_suite_or_a_missing_file_is_said(tmp_path):
    run = lambda *args: CliRunner().invoke(app, ["episodes", *map(str, args)])  # noqa: E731
    unknown = run("nosuch", tmp_path, tmp_path / "e")
    assert unknown.exit_code == 2 and "no suite is called 'nosuch'; there are ovobench" in unknown.stderr
    missing = run("ovobench", tmp_path, tmp_path / "e")
    assert missing.exit_code == 3 and "ovo_bench_new.json" in missing.stderr


def test_episodes_have_the_rate_of_their_benchmark_unless_another_is_given(data_dir, tmp_path):
    command = ["episodes", "ovo_timing", str(data_dir(PLACES["ovo_timing"])), str(tmp_path / "e")]
    run = lambda *more: CliRunner().invoke(app, [*command, *more])  # noqa: E731
    assert run().exit_code == 0 and {e.fps for e in read_episodes(tmp_path / "e")} == {2.0}
    assert run("--fps", "1").exit_code == 0 and {e.fps for e in read_episodes(tmp_path / "e")} == {1.0}


@pytest.mark.parametrize("rate", ["0.4", "2.5", "nan", "inf"])
@pytest.mark.parametrize("command", [["episodes", "ovobench", "data", "out"], ["eval", "ovobench", "--out", "run"]])
def test_a_rate_out_of_range_is_a_usage_error(command, rate):
    result = CliRunner().invoke(app, [*command, "--fps", rate])
    assert result.exit_code == 2 and "--fps" in result.stderr
