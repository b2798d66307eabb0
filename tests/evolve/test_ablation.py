"""The ablation of a finished run: what is varied, what is taken over from it, and that every row is kept."""

import json

import pytest
from typer.testing import CliRunner

from evostreaming.benchmarks.ablation import BASE, ROWS, ablate, prepare, table, variations
from evostreaming.engine.errors import ArgumentError
from evostreaming.evolve.rows import read_rows
from evostreaming.evolve.tables import SCORES

ABOUT = {
    "model": "tiny", "videos": "clips", "prompts_sha": "0", "samples": 300, "rounds": 1, "seed": 4, "window": 0, "consistency": True,
    "choices": 0.0, "offline_share": 0.0, "tuning": {"loss_balance": "inverse", "seed": 4, "rate": 1e-3},
}  # fmt: skip


def changes(about):
    return {each.name: each.changes for each in variations(about)}


def test_every_setting_of_the_table_is_varied_but_the_one_that_was_run():
    assert changes(ABOUT) == {
        "3 rounds": {"rounds": 3},
        "3,000 trajectories": {"samples": 3000},
        "1,000 trajectories": {"samples": 1000},
        "100 trajectories": {"samples": 100},
        "seed 5": {"seed": 5, "tuning": {"seed": 5}},
        "seed 6": {"seed": 6, "tuning": {"seed": 6}},
        "loss balance none": {"tuning": {"loss_balance": "none"}},
        "loss balance focal": {"tuning": {"loss_balance": "focal"}},
        "pruned to 8 silent turns": {"window": 8},
        "without self-consistency": {"consistency": False},
    }
    other = changes(ABOUT | {"window": 5, "consistency": False, "choices": 0.5, "offline_share": 0.1})
    assert other["without pruning"] == {"window": 0} and other["with self-consistency"] == {"consistency": True}
    assert other["without options"] == {"choices": 0.0} and other["without offline questions"] == {"offline_share": 0.0}


def test_a_variation_takes_over_what_comes_before_its_change_and_nothing_after(tmp_path):
    base, first = tmp_path / "base", tmp_path / "base" / "round_1"
    (first / "adapter").mkdir(parents=True)
    for name in ("classes", "questions", "relevance", "rollouts", "trajectories", "losses"):
        (first / f"{name}.jsonl").write_text(name)
    held = {}
    for each in variations(ABOUT):
        prepare(base, tmp_path / each.folder, ABOUT, each)
        held[each.name] = {path.name for path in (tmp_path / each.folder / "round_1").iterdir()}
        about = json.loads((tmp_path / each.folder / "run.json").read_text())
        assert about["tuning"] == ABOUT["tuning"] | each.changes.get("tuning", {}), "what is not varied stays"
        assert (tmp_path / each.folder / "features").resolve() == base / "features"
    annotated = {"classes.jsonl", "questions.jsonl", "relevance.jsonl"}
    assert held["seed 5"] == held["without self-consistency"] == held["pruned to 8 silent turns"] == annotated
    assert held["100 trajectories"] == held["loss balance focal"] == annotated | {"rollouts.jsonl"}
    assert held["3 rounds"] == {path.name for path in first.iterdir()}


def test_the_table_gives_mean_and_deviation_over_the_seeds():
    def line(name, value):
        scores = dict.fromkeys(SCORES, value)
        return {"name": name, "round": 1, "trajectories": 9, "scores": scores | {"offline": None}, "seconds": 1.0}

    lines = table([line(BASE, 30.0), line("seed 5", 32.0), line("seed 6", 34.0), line("loss balance none", 90.0)]).splitlines()
    assert lines[2] == f"| {BASE} | 9 | {' | '.join(['30.0'] * 6)} | - | 1 |"
    assert lines[-1].startswith("| 3 seeds | | 32.0 ± 2.0 |") and lines[-1].endswith("| - | |")


@pytest.mark.slow
def test_variations_of_a_finished_run_are_scored_side_by_side_and_not_again(clips, tmp_path):
    from evostreaming.cli import app
    from evostreaming.engine.locate import locate
    from evostreaming.eval.episodes import Episode, Query, Target, write_episodes

    query, target = Query("q", 2.0, "What do you see?", "text"), Target("g", "q", 4.0, (4.0, 8.0), "x")
    episode = Episode("FAR", "clips", "FAR", "FAR", "train-wait-20000072.mp4", 0.0, 14.0, 0.5, (query,), (target,))
    write_episodes(tmp_path / "mini.jsonl", [episode])
    suite, base, out = str(tmp_path / "mini.jsonl"), tmp_path / "base", tmp_path / "out"
    words = ["evolve", "--videos", clips, "--out", base, "--model", locate("tiny"), "--samples", 8, "--questions", 2, "--batch", 3]
    words += ["--device", "cpu", "--suite", suite, "--eval-data", clips]
    assert CliRunner().invoke(app, list(map(str, words[:-4]))).exit_code == 0
    with pytest.raises(ArgumentError, match="--evaluate"):
        ablate(base, out, suite, clips, "cpu", 2)
    assert CliRunner().invoke(app, list(map(str, words))).exit_code == 0

    said = []
    text = ablate(base, out, suite, clips, "cpu", 2, ["loss balance"], said.append)
    rows = read_rows(out / ROWS)
    assert [row["name"] for row in rows[:2]] == ["before", BASE]
    assert {row["name"] for row in rows[2:]} == {"loss balance inverse", "loss balance focal"}, said
    assert all(row["scores"]["far"] is not None for row in rows) and len({row["trajectories"] for row in rows[1:]}) == 1
    assert "loss balance focal" in text
    losses = [read_rows(folder / "round_1" / "losses.jsonl")[0]["loss"] for folder in (base, out / "loss_balance_focal")]
    assert losses[0] != losses[1], "the change has an effect"

    ablate(base, out, suite, clips, "cpu", 2, ["loss balance"], said.append)
    assert read_rows(out / ROWS) == rows, "what is done is not done again"
