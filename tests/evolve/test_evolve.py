"""`evostreaming evolve` as a user runs it: a miniature run on the built-in model, killed, resumed, refused, spread over processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import pytest
from typer.testing import CliRunner

from evostreaming.cli import app
from evostreaming.evolve.rows import read_rows

pytestmark = pytest.mark.slow


def arguments(clips, out, *more):
    return [
        "evolve", "--videos", str(clips), "--out", str(out), "--samples", "20", "--questions", "4", "--batch", "3",
        "--device", "cpu", *more,
    ]  # fmt: skip


def run(clips, out, *more):
    return CliRunner().invoke(app, arguments(clips, out, *more))


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """A finished run of one round: (folder, what it printed as JSON, seconds of one core)."""
    out, began = tmp_path_factory.mktemp("whole") / "run", time.process_time()
    done = run(clips, out, "--json")
    assert done.exit_code == 0, done.output
    return out, json.loads(done.stdout.splitlines()[0]), time.process_time() - began


def test_twenty_trajectories_from_videos_to_an_adapter_in_a_minute_of_one_core(whole):
    out, told, seconds = whole
    (first,) = told["rounds"]
    assert seconds < 60
    assert 5 <= first["trajectories"] <= 20 and first["trajectories"] == len(read_rows(out / "round_1" / "trajectories.jsonl"))
    assert first["videos"] == 7 and first["classified"] == 6 and first["skipped"]["classify"] == 1
    assert first["answer_rate"] <= 0.4 and first["tuning"]["steps"] >= 1
    assert set(told["seconds"]) == {f"round 1 {stage}" for stage in ("classify", "questions", "relevance", "rollout", "features", "tune")}


def test_a_trajectory_says_what_was_seen_asked_and_said(whole):
    for row in read_rows(whole[0] / "round_1" / "trajectories.jsonl"):
        assert set(row) == {"id", "video", "fps", "category", "system", "turns", "quiet", "offline", "provenance"}
        assert sum("query" in turn for turn in row["turns"]) == 1
        times = [turn["t"] for turn in row["turns"]]
        assert times == sorted(set(times))
        asked = next(turn["t"] for turn in row["turns"] if "query" in turn)
        replied = [turn["t"] for turn in row["turns"] if turn["reply"]]
        assert row["quiet"] == (not replied) and all(t >= asked for t in replied)
        assert row["provenance"] | {"prompts_sha": 0} == {"model": "tiny", "adapter": None, "round": 1, "seed": 0, "prompts_sha": 0}


def test_a_broken_video_costs_one_row(whole):
    (row,) = [row for row in read_rows(whole[0] / "round_1" / "skipped.jsonl") if row["stage"] == "classify"]
    assert row["video"] == "broken.mp4" and row["reason"]


def test_the_adapter_streams_in_the_engine_with_its_own_turn_format(whole, clips):
    from evostreaming import Engine

    adapter = whole[0] / "round_1" / "adapter"
    streaming = json.loads((adapter / "streaming.json").read_text())
    assert streaming["silence"] == "SILENT" and streaming["history"] == "full"
    engine = Engine.from_pretrained("tiny", device="cpu", adapter=adapter)
    streams = [row for row in read_rows(whole[0] / "round_1" / "trajectories.jsonl") if not row["offline"]]
    assert engine.streaming.system == streams[0]["system"]
    assert engine.dialogue.history == "full"
    about = json.loads((adapter / "provenance.json").read_text())
    assert about["model"] == "tiny" and about["settings"]["samples"] == 20
    assert about["trajectories"] == whole[1]["rounds"][0]["trajectories"]


def test_the_merged_checkpoint_speaks_like_the_adapter(whole, clips, tmp_path):
    from evostreaming import Engine
    from evostreaming.engine.locate import locate
    from evostreaming.evolve.merged import write_merged
    from evostreaming.evolve.videos import read_frames

    adapter = whole[0] / "round_1" / "adapter"
    write_merged(locate("tiny"), adapter, tmp_path)
    (frame, *_), _ = read_frames(clips / "train-sign-20000018.mp4", 0.5)

    def logits(*source, **options):
        engine = Engine.from_pretrained(*source, device="cpu", **options)
        with engine.open(query="What number does the sign show?", logits=True) as stream:
            return engine.step(frame, stream).logits

    tuned, merged, stock = logits("tiny", adapter=adapter), logits(tmp_path), logits("tiny", history="full")
    assert (tuned - merged).abs().max() < 0.05 * tuned.abs().max()  # the checkpoint is stored in bfloat16
    assert (tuned - stock).abs().max() > 0


def test_the_report_shows_funnel_balance_loss_and_samples(whole):
    page = (whole[0] / "report.html").read_text()
    for words in ("trajectories made", "duplicate", "distinct-2", "held out", "data:image/jpeg", "Not evaluated"):
        assert words in page, words


def test_a_finished_run_is_left_alone(whole, clips):
    before = {path: path.read_bytes() for path in whole[0].rglob("*.jsonl")}
    done = run(clips, whole[0])
    assert done.exit_code == 0, done.output
    assert {path: path.read_bytes() for path in whole[0].rglob("*.jsonl")} == before


def test_other_settings_are_refused_by_name(whole, clips):
    done = run(clips, whole[0], "--window", "5", "--loss-balance", "focal")
    assert done.exit_code == 2
    assert "window 8, not 5" in done.output and "loss_balance 'none', not 'focal'" in done.output


def test_a_killed_run_goes_on_to_the_same_bytes(whole, clips, tmp_path):
    out = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "evostreaming", *arguments(clips, out, "--stage", "rollout")]
    for file in ("questions.jsonl", "rollouts.jsonl"):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        place, deadline = out / "round_1" / file, time.monotonic() + 120
        while not (place.exists() and place.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert 0 < place.stat().st_size < (whole[0] / "round_1" / file).stat().st_size, "killed in the middle of the stage"
    assert run(clips, out, "--stage", "rollout").exit_code == 0
    for file in ("classes", "questions", "relevance", "rollouts", "skipped", "trajectories"):
        assert (out / "round_1" / f"{file}.jsonl").read_bytes() == (whole[0] / "round_1" / f"{file}.jsonl").read_bytes(), file


def test_a_second_round_starts_from_the_first(whole, clips, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    done = run(clips, out, "--rounds", "2", "--json")
    assert done.exit_code == 0, done.output
    rows = read_rows(out / "round_2" / "trajectories.jsonl")
    assert rows and {row["provenance"]["adapter"] for row in rows} == {"round_1/adapter"}
    first, second = ((out / f"round_{i}" / "questions.jsonl").read_bytes() for i in (1, 2))
    assert first != second, "another round asks with another seed"
    assert (out / "round_2" / "adapter" / "adapter_model.safetensors").exists()


@pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")
def test_ray_gives_the_rows_of_one_process(whole, clips, tmp_path):
    done = run(clips, tmp_path / "run", "--stage", "rollout", "--ray", "local")
    assert done.exit_code == 0, done.output
    for file in ("classes", "questions", "relevance", "rollouts", "skipped", "trajectories"):
        assert (tmp_path / "run" / "round_1" / f"{file}.jsonl").read_bytes() == (whole[0] / "round_1" / f"{file}.jsonl").read_bytes(), file


@pytest.mark.skipif(bool(find_spec("ray")), reason="Ray is installed")
def test_without_ray_the_error_says_what_to_install(clips, tmp_path):
    done = run(clips, tmp_path / "run", "--ray", "local")
    assert done.exit_code == 1 and "evostreaming[ray]" in done.output


def test_what_cannot_start_says_why(clips, tmp_path):
    (tmp_path / "empty").mkdir()
    for more, code, words in (
        (("--videos", str(tmp_path / "empty")), 3, "holds no video"),
        (("--model", str(tmp_path / "empty")), 4, "config.json"),
        (("--prompts", "v0"), 2, "built in: v1"),
        (("--segment", "1"), 2, "holds no frame"),
    ):
        done = CliRunner().invoke(app, arguments(clips, tmp_path / "run" / str(code) / words[:6], *more))
        assert done.exit_code == code and words in " ".join(done.output.split()), done.output


def test_scores_stand_before_and_after(clips, whole, tmp_path):
    from evostreaming.engine.locate import locate
    from evostreaming.eval.episodes import Episode, Query, Target, write_episodes

    def episode(task, video):
        query, target = Query("q", 2.0, "What do you see?", "text"), Target("g", "q", 4.0, (4.0, 8.0), "x")
        return Episode(task, "clips", task, task, video, 0.0, 14.0, 0.5, (query,), (target,))

    write_episodes(tmp_path / "mini.jsonl", [episode("FAR", "train-wait-20000072.mp4"), episode("RT", "train-sign-20000018.mp4")])
    out = tmp_path / "run"
    shutil.copytree(whole[0], out)
    settings = json.loads((out / "run.json").read_text())
    model = str(locate("tiny"))  # by its folder, for which no offline questions are known
    (out / "run.json").write_text(json.dumps({**settings, "model": model}))
    done = run(clips, out, "--model", model, "--suite", str(tmp_path / "mini.jsonl"), "--eval-data", str(clips), "--json")
    assert done.exit_code == 0, done.output
    before, after = json.loads(done.stdout.splitlines()[0])["scores"]
    assert set(before) == set(after) and before["overall"] is not None and after["offline"] is None
    assert json.loads((out / "scores" / "round_1" / "run.json").read_text())["adapter"] == "adapter"
    assert "<h2>Scores</h2>" in (out / "report.html").read_text()
