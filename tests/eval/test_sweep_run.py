"""`evostreaming eval` as a user runs it, on the built-in model: resumed, refused, killed, out of disk."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

import evostreaming
from evostreaming.cli import app
from evostreaming.eval import sweep_workers
from evostreaming.eval.episodes import Episode, Query, Target, write_episodes
from evostreaming.eval.errors import RunError
from evostreaming.eval.journal import Journal, read_lines
from evostreaming.eval.sweep_plan import plan_bundles, plan_watches

CLIPS = Path(evostreaming.__file__).parent / "assets" / "clips"


def build(name, video, regime="FAR", t_q=3.0, t_end=16.0):
    query = Query("q", t_q, "What is the cook doing now?", "text")
    return Episode(name, "clips", regime, regime, video, 0.0, t_end, 0.5, (query,), (Target("g", "q", 10.0, (10.0, 14.0), "cut"),))


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A folder with `suite.jsonl`, ten episodes of five videos."""
    folder = tmp_path_factory.mktemp("bench")
    episodes = []
    for i in range(5):
        (folder / f"{i}.mp4").symlink_to(CLIPS / ("demo.mp4" if i % 2 else "wait.mp4"))
        episodes += [build(f"far-{i}", f"{i}.mp4", t_end=16.0 + 4 * i), build(f"now-{i}", f"{i}.mp4", "RT", 10.0, 14.0)]
    write_episodes(folder / "suite.jsonl", episodes)
    return folder


def arguments(bench, out, *more):
    # Room for four streams: several bundles, so that there is something to be killed between.
    return ["eval", str(bench / "suite.jsonl"), "--out", str(out), "--device", "cpu", "--streams", "4", "--max-tokens", "2048", *more]


def evaluate(bench, out, *more):
    return CliRunner().invoke(app, arguments(bench, out, *more))


@pytest.fixture(scope="module")
def whole(bench, tmp_path_factory):
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = evaluate(bench, out)
    assert done.exit_code == 0, done.output
    return out


def same(out, whole):
    return all((out / name).read_bytes() == (whole / name).read_bytes() for name in ("traces.jsonl", "scores.json", "episodes.jsonl"))


def test_a_run_leaves_episodes_traces_and_scores(whole):
    card = json.loads((whole / "scores.json").read_text())
    assert card["header"]["model"] == "tiny" and card["header"]["max_new_tokens"] == 128 and card["header"]["engine_commit"]
    assert len(card["episodes"]) == 10 and card["overall"]["S"] is not None and "always-silent" in card["floors"]
    traces = [json.loads(line) for line in (whole / "traces.jsonl").read_text().splitlines()]
    assert [t["episode_id"] for t in traces] == [json.loads(x)["episode_id"] for x in (whole / "episodes.jsonl").read_text().splitlines()]
    assert all("lat_s" not in turn and 0 <= turn["p_speak"] <= 1 for t in traces for turn in t["turns"])
    speed = json.loads((whole / "speed.json").read_text())
    assert 0 < speed["waited"] < speed["seconds"] and speed["share"] == pytest.approx(speed["waited"] / speed["seconds"], abs=1e-3)
    # Videos are streamed once for all their episodes: fewer turns than the traces hold.
    assert 50 < speed["turns"] < sum(len(t["turns"]) for t in traces)


def test_killed_at_any_moment_and_resumed_it_is_the_same_to_the_byte(bench, whole, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "evostreaming", *arguments(bench, out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal, deadline = out / "journal.jsonl", time.monotonic() + 120
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = journal.read_bytes()
    assert 2 <= kept.count(b"\n") < 10 and not (out / "traces.jsonl").exists()
    # The worst moment: in the middle of a line.
    with open(journal, "ab") as file:
        file.write(b'{"episode_id": "far-4", "run_id": "su')
    assert evaluate(bench, out).exit_code == 0
    assert journal.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1]), "what was finished was done again"
    assert same(out, whole)


def test_a_finished_run_is_scored_again_without_a_model(bench, whole, monkeypatch):
    def loads(*args):
        raise AssertionError("the model was loaded")

    before = (whole / "scores.json").read_bytes()
    monkeypatch.setattr(sweep_workers, "Worker", loads)
    assert evaluate(bench, whole).exit_code == 0
    assert (whole / "scores.json").read_bytes() == before


def test_parts_of_a_run_make_the_whole(bench, whole, tmp_path):
    first = evaluate(bench, tmp_path / "run", "--shards", "1/2")
    assert first.exit_code == 0 and "part 1 of 2 is done" in first.output and not (tmp_path / "run" / "traces.jsonl").exists()
    assert evaluate(bench, tmp_path / "run", "--shards", "2/2").exit_code == 0
    assert same(tmp_path / "run", whole)
    parts = [json.loads((tmp_path / "run" / f"speed-{part}-of-2.json").read_text())["turns"] for part in (1, 2)]
    assert sum(parts) == json.loads((whole / "speed.json").read_text())["turns"] and all(parts)
    assert evaluate(bench, tmp_path / "run", "--shards", "3/2").exit_code == 2


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--threshold", "0.9"), "gate is ['softmax', 0.5, 0] there, now ['softmax', 0.9, 0]"),
        (("--limit", "3"), "episodes_sha256 is "),
        (("--max-tokens", "4096"), "max_tokens is 2048 there, now 4096"),
    ],
)
def test_the_folder_of_another_run_is_refused_with_the_difference(bench, whole, more, said):
    before = {p.name: p.read_bytes() for p in whole.iterdir() if p.is_file()}
    refused = evaluate(bench, whole, *more)
    assert refused.exit_code == 1 and "belongs to another run" in refused.output and said in refused.output
    assert {p.name: p.read_bytes() for p in whole.iterdir() if p.is_file()} == before


def test_a_folder_in_which_nothing_was_run_yet_is_free_for_another_attempt(bench, tmp_path):
    (tmp_path / "broken").mkdir()
    failed = evaluate(bench, tmp_path / "run", "--model", str(tmp_path / "broken"), "--limit", "1")
    assert failed.exit_code == 4 and (tmp_path / "run" / "run.json").exists()
    with Journal(tmp_path / "run" / "journal.jsonl"):
        refused = evaluate(bench, tmp_path / "run", "--limit", "1")
        assert refused.exit_code == 1 and "belongs to another run" in refused.output, "somebody is about to write there"
    assert evaluate(bench, tmp_path / "run", "--limit", "1").exit_code == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["model"] == "tiny"


def test_another_model_of_the_same_name_is_another_run(bench, whole, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(CLIPS.parent / "tiny", copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    refused = evaluate(bench, whole, "--model", str(copy))
    assert refused.exit_code == 1 and "model_sha256 is " in refused.output


def test_all_missing_videos_are_named_before_anything_runs(bench, tmp_path):
    write_episodes(tmp_path / "suite.jsonl", [build("a", "gone/a.mp4"), build("b", "0.mp4"), build("c", "gone/c.mp4")])
    failed = evaluate(tmp_path, tmp_path / "run", "--data", str(bench))
    assert failed.exit_code == 3 and "2 videos are missing" in failed.output
    assert "gone/a.mp4" in failed.output and "gone/c.mp4" in failed.output and not (tmp_path / "run").exists()


def test_duplicate_ids_are_refused(tmp_path, bench):
    write_episodes(tmp_path / "suite.jsonl", [build("a", "0.mp4"), build("a", "1.mp4")])
    failed = evaluate(tmp_path, tmp_path / "run", "--data", str(bench))
    assert failed.exit_code == 3 and "ids must be unique" in failed.output


def test_a_broken_video_is_a_row_with_its_reason(bench, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no film at all" * 64)
    shutil.copy(CLIPS / "demo.mp4", tmp_path / "good.mp4")
    write_episodes(tmp_path / "suite.jsonl", [build("bad", "bad.mp4"), build("good", "good.mp4")])
    done = evaluate(tmp_path, tmp_path / "run")
    card = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert done.exit_code == 0 and "not run: bad: VideoError: bad.mp4" in done.output
    assert list(card["failed"]) == ["bad"] and card["overall"]["S"] is None and [e["episode_id"] for e in card["episodes"]] == ["good"]


def test_a_full_disk_is_said_and_the_run_goes_on_with_room(bench, whole, tmp_path):
    limit, out = resource.getrlimit(resource.RLIMIT_FSIZE), tmp_path / "run"
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limit[1]))  # the kernel then refuses in the middle of a line, as a full disk does
    try:
        failed = evaluate(bench, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert failed.exit_code == 1 and "journal.jsonl: File too large; every episode that was finished is kept" in failed.output
    data = (out / "journal.jsonl").read_bytes()
    assert data and not data.endswith(b"\n"), "the limit did not fall into a line"
    assert evaluate(bench, out).exit_code == 0
    assert same(out, whole)


def test_baselines_stand_in_folders_of_their_own(bench, tmp_path):
    done = evaluate(bench, tmp_path / "run", "--limit", "2", "--baseline", "simplestream")
    assert done.exit_code == 0, done.output
    below = tmp_path / "run" / "baselines" / "simplestream"
    assert json.loads((below / "run.json").read_text())["policy"] == "simplestream" and (below / "scores.json").exists()
    refused = evaluate(bench, tmp_path / "other", "--baseline", "vanilla")
    assert refused.exit_code == 2 and "give --adapter" in refused.output


def test_with_an_adapter_the_vanilla_baseline_is_the_model_before(bench, whole, tmp_path):
    adapter = tmp_path / "tuned"
    adapter.mkdir()
    generator = torch.Generator().manual_seed(0)
    layer = "model.layers.0.mlp.down_proj"
    with safe_open(CLIPS.parent / "tiny" / "model.safetensors", "pt") as weights:
        rows, columns = weights.get_slice(f"{layer}.weight").get_shape()
    sizes = {"A": (4, columns), "B": (rows, 4)}
    tensors = {f"base_model.model.{layer}.lora_{side}.weight": 0.2 * torch.randn(size, generator=generator) for side, size in sizes.items()}
    save_file(tensors, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    out = tmp_path / "run"
    done = evaluate(bench, out, "--adapter", str(adapter), "--baseline", "vanilla", "--limit", "2")
    assert done.exit_code == 0, done.output
    after, before, stock = (
        [json.loads(line) for line in (o / "traces.jsonl").read_text().splitlines()] for o in (out, out / "baselines" / "vanilla", whole)
    )
    assert all(trace["meta"]["adapter"] == "tuned" for trace in after) and "adapter" not in before[0]["meta"]
    assert [t["turns"] for t in before] == [t["turns"] for t in stock[:2]] != [t["turns"] for t in after]


def test_timed_runs_have_latencies_and_can_be_scored_by_the_wall_clock(bench, whole, tmp_path):
    out = tmp_path / "run"
    assert evaluate(bench, out, "--timed").exit_code == 0
    rows, untimed = ([json.loads(line)["turns"] for line in (o / "traces.jsonl").read_text().splitlines()] for o in (out, whole))
    assert all(0 < turn["ttft_s"] <= turn["lat_s"] < 60 for turns in rows for turn in turns)
    assert [[turn["raw"] for turn in turns] for turns in rows] == [[turn["raw"] for turn in turns] for turns in untimed]
    scored = CliRunner().invoke(app, ["score", str(out / "episodes.jsonl"), str(out / "traces.jsonl"), "--clock", "wall"])
    assert scored.exit_code == 0 and "wall clock" in scored.output


def test_a_journal_has_one_writer_and_forgets_a_torn_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append({"episode_id": "a", "text": "über"})
        with pytest.raises(RunError, match="another process"):
            Journal(path)
    with open(path, "ab") as file:
        file.write(b'{"episode_id": "b", "te')
    assert list(read_lines(path)) == ["a"]
    with Journal(path) as journal:
        journal.append({"episode_id": "c"})
    assert list(read_lines(path)) == ["a", "c"]
    path.write_bytes(b"[1, 2]\n")
    with pytest.raises(RunError, match="line 1: not an episode"):
        read_lines(path)


def test_bundles_hold_every_episode_once_the_longest_first_and_fit():
    episodes = [
        build(f"{v}-{i}", f"{v}.mp4", "FAR" if i % 3 else "RT", t_q=float(3 * i), t_end=60.0 * (v + 1)) for v in range(9) for i in range(v)
    ]
    paths = {e.video: e.video for e in episodes}
    bundles = plan_bundles(plan_watches(episodes, paths), 4)
    assert sorted(s.episode_id for b in bundles for w in b for s in w.strands) == sorted(e.episode_id for e in episodes)
    assert all(sum(watch.width for watch in bundle) <= 4 for bundle in bundles)
    costs = [sum(watch.turns for watch in bundle) for bundle in bundles]
    assert costs == sorted(costs, reverse=True)
    shuffled = plan_bundles(plan_watches([replace(e) for e in reversed(episodes)], paths), 4)
    assert [[{s.episode_id for s in w.strands} for w in b] for b in shuffled] == [
        [{s.episode_id for s in w.strands} for w in b] for b in bundles
    ]


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed (pip install 'evostreaming[ray]')")
def test_ray_workers_say_what_this_process_says(bench, whole, tmp_path):
    done = evaluate(bench, tmp_path / "run", "--ray", "local")
    assert done.exit_code == 0, done.output
    lines = [[json.loads(line)["turns"] for line in (out / "traces.jsonl").read_text().splitlines()] for out in (whole, tmp_path / "run")]
    assert lines[0] == lines[1]


@pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_it_says_what_to_install(bench, tmp_path):
    refused = evaluate(bench, tmp_path / "run", "--ray", "local")
    assert refused.exit_code == 1 and "evostreaming[ray]" in refused.output and os.listdir(tmp_path / "run")
