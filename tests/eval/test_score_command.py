"""`score` as a user runs it: two files in, tables or JSON out."""

import json
import os
import random
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from evostreaming.eval.cli import app
from evostreaming.eval.episodes import write_episodes
from evostreaming.eval.floors import make_trace as floor_trace
from evostreaming.eval.suites import catalog
from evostreaming.eval.traces import write_traces

RIGHT = "the kettle boils"


@pytest.fixture
def files(make_episode, make_trace, tmp_path):
    episodes = [
        make_episode("far", task="CRR"),
        make_episode("rt", regime="RT", task="OCR", t_q=30, targets=((30, 30, 30),), form="letter"),
        make_episode("bt", regime="BT", task="EPM", t_q=30, targets=((30, 30, 30),), form="yesno"),
        make_episode("calm", task="QUIET", targets=()),
    ]
    said = [{4: RIGHT, 10: RIGHT}, {15: "B"}, {15: "no"}, {}]
    write_episodes(tmp_path / "e.jsonl", episodes)
    write_traces(tmp_path / "t.jsonl", [make_trace(e, s) for e, s in zip(episodes, said)])
    return tmp_path


def score(*args):
    return CliRunner().invoke(app, ["score", *map(str, args)])


def card_of(*args):
    result = score(*args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_json_holds_header_episodes_tasks_regimes_and_overall(files):
    card = card_of(files / "e.jsonl", files / "t.jsonl")
    assert {r["episode_id"]: (r["S"], r["E"] and round(r["E"], 4), r["Q"]) for r in card["episodes"]} == {
        "far": (0.9, 0.6667, None), "rt": (1.0, 1.0, None), "bt": (0.0, 0.0, None), "calm": (None, None, 1.0),
    }  # fmt: skip
    assert (card["tasks"]["CRR"]["S"], card["tasks"]["QUIET"]["S"], card["tasks"]["QUIET"]["Q"]) == (90.0, None, 100.0)
    assert {k: v["S"] for k, v in card["regimes"].items()} == {"BT": 0.0, "RT": 100.0, "FAR": 90.0}
    assert card["overall"]["S"] == pytest.approx(190 / 3) and card["overall"]["E"] == pytest.approx(66.667, abs=1e-3)
    header = card["header"]
    for fact in ("spec", "fps", "delta_s", "lambda_s", "theta", "matching", "judge", "judge_prompt_sha256", "silence", "episodes_sha256",
                 "engine_commit", "max_new_tokens", "clock"):  # fmt: skip
        assert fact in header
    assert (header["spec"], header["judge"], header["clock"], header["fps"], header["delta_s"]) == (
        "RSE-1.0",
        "lexical",
        "video",
        [0.5],
        2.0,
    )
    assert set(card["floors"]) == {"always-silent", "always-speak", "every-3rd-turn", "constant-delay-7s", "oracle"}


def test_the_same_files_give_the_same_bytes(files):
    first, second = (score(files / "e.jsonl", files / "t.jsonl", "--json").stdout for _ in range(2))
    assert first == second
    lines = (files / "t.jsonl").read_text().splitlines()
    (files / "u.jsonl").write_text("\n".join(lines[::-1]) + "\n")
    one, other = json.loads(first), card_of(files / "e.jsonl", files / "u.jsonl")
    assert one["header"].pop("traces_sha256") != other["header"].pop("traces_sha256")
    assert one == other


@pytest.mark.parametrize("profile", ["paper", "event", "figure"])
def test_tables_for_people(files, profile):
    result = score(files / "e.jsonl", files / "t.jsonl", "--profile", profile)
    assert result.exit_code == 0
    for word in ("CRR", "OCR", "EPM", "overall", "always-speak"):
        assert word in result.output
    assert card_of(files / "e.jsonl", files / "t.jsonl", "--profile", profile)["header"]["profile"] == profile


def test_a_missing_trace_is_said_and_forbids_the_overall(files):
    lines = (files / "t.jsonl").read_text().splitlines()
    (files / "t.jsonl").write_text("\n".join(lines[:3]) + "\n")
    result = score(files / "e.jsonl", files / "t.jsonl")
    assert result.exit_code == 0 and "1 of 4 episodes have no usable trace" in result.stderr
    assert card_of(files / "e.jsonl", files / "t.jsonl")["overall"] == {"S": None, "E": None, "S_ci95": None, "E_ci95": None}
    assert card_of(files / "e.jsonl", files / "t.jsonl", "--allow-partial")["overall"]["S"] == pytest.approx(190 / 3)


def test_bad_input_is_one_line_on_stderr_and_exit_code_3(files):
    text = (files / "t.jsonl").read_text().replace('"silent": true', '"silent": "yes"', 1)
    (files / "t.jsonl").write_text(text)
    result = score(files / "e.jsonl", files / "t.jsonl", "--json")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.count("\n") == 1 and "line 1, field turns[0].silent: expected true or false, got a string" in result.stderr
    assert score(files / "nowhere.jsonl", files / "t.jsonl").exit_code == 3


OWN = [suite for suite in catalog.SUITES if hasattr(catalog.load_suite(suite), "official")]


@pytest.mark.parametrize("targets", [(), ((20, 20, 30),)])
@pytest.mark.parametrize("suite", OWN)
def test_episodes_that_only_carry_a_suites_name_are_scored_without_its_own_score(make_episode, make_trace, tmp_path, suite, targets):
    episodes = [make_episode("ours", suite=suite), make_episode("other", suite=suite, targets=targets, task="PA")]
    write_episodes(tmp_path / "e", episodes)
    write_traces(tmp_path / "t", [make_trace(e, {10: RIGHT}) for e in episodes])
    card = card_of(tmp_path / "e", tmp_path / "t")
    assert {row["episode_id"]: row["S"] for row in card["episodes"]} == {"ours": 1.0, "other": 1.0 if targets else None}
    said = [text for text in card["header"]["incomplete"] if f"`evostreaming episodes {suite}`" in text]
    assert len(said) == (suite not in card["official"])


@pytest.mark.parametrize(
    ("suite", "targets", "what"),
    [("ovbench", ((20, 20, 30),), "'subset'"), ("vstream_qa", (), "a target"), ("svbench", (), "a target")],
)
def test_what_a_suites_own_score_lacks_is_said(make_episode, make_trace, tmp_path, suite, targets, what):
    episode = make_episode("e", suite=suite, targets=targets)
    write_episodes(tmp_path / "e", [episode])
    write_traces(tmp_path / "t", [make_trace(episode, {10: "B"})])
    result = score(tmp_path / "e", tmp_path / "t")
    assert result.exit_code == 0 and f"{suite}: its own score is left out, {what}" in result.stderr


def test_blind_policies_stand_beside_a_benchmarks_own_score(make_episode, make_trace, tmp_path):
    episode = make_episode("e", suite="ovobench", task="SSR")
    write_episodes(tmp_path / "e", [episode])
    write_traces(tmp_path / "t", [make_trace(episode, {10: "B"})])
    assert "ovobench · blind · SSR, always 'Yes'" in score(tmp_path / "e", tmp_path / "t").stdout


def test_an_llm_judge_needs_an_address_and_an_unreachable_one_leaves_the_run_incomplete(files, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    result = score(files / "e.jsonl", files / "t.jsonl", "--judge", "llm")
    assert result.exit_code == 2 and "--judge-url" in result.stderr
    card = card_of(files / "e.jsonl", files / "t.jsonl", "--judge", "llm", "--judge-url", "http://127.0.0.1:9/v1")
    assert card["overall"]["S"] is None and card["header"]["incomplete"]
    assert {r["episode_id"]: r["S"] for r in card["episodes"]} == {"far": None, "rt": 1.0, "bt": 0.0, "calm": None}
    assert card["header"]["judge"] == "Qwen3-VL-235B-A22B-Instruct" and card["header"]["judge_prompt_sha256"]


def test_scoring_does_not_load_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from evostreaming.eval.cli import app;"
        "CliRunner().invoke(app, ['score', 'a', 'b']);"
        "from evostreaming.eval import scorecard, tables; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.slow
def test_two_hundred_thousand_turns_in_ten_seconds(make_episode, tmp_path):
    rng, episodes, n = random.Random(0), [], 0
    while n < 199_172:
        i, far = len(episodes), len(episodes) % 10 == 0
        length = rng.uniform(20, 460)
        kind = {
            "regime": "FAR",
            "targets": [(t, t, t + 5, f"thing {j}") for j, t in enumerate(sorted(rng.uniform(5, length) for _ in range(3)))],
        }
        late = {"regime": "RT", "form": "letter", "t_q": length - 4, "targets": ((length - 4, length - 4, length - 4),)}
        episodes.append(make_episode(f"e{i}", t_end=length, video=f"v{i // 3}", task=f"t{i % 12}", **(kind if far else late)))
        n += int(length / 2) + 1
    write_episodes(tmp_path / "e", episodes)
    write_traces(tmp_path / "t", [floor_trace(e, "every-3rd-turn", "run") for e in episodes])
    before = os.times()
    result = subprocess.run(
        [sys.executable, "-c", "from evostreaming.eval.cli import app; app()", "score", tmp_path / "e", tmp_path / "t", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # Processor seconds of the child: the clock on the wall also shows what else this machine is doing.
    after = os.times()
    took = after.children_user + after.children_system - before.children_user - before.children_system
    assert json.loads(result.stdout)["header"]["scored"] == f"{len(episodes)}/{len(episodes)}"
    assert took < 10, f"{n} turns took {took:.1f} s"
