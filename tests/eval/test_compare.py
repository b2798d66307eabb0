"""Runs side by side: paired by video, so that what is common to all runs does not blur their difference."""

import json
import random

import pytest
from typer.testing import CliRunner

from evostreaming.engine.errors import ArgumentError
from evostreaming.eval.compare import compare
from evostreaming.eval.episodes import write_episodes
from evostreaming.eval.report_cli import app
from evostreaming.eval.report_compare import interval
from evostreaming.eval.report_run import read_run
from evostreaming.eval.traces import Trace, write_traces


@pytest.fixture
def make_run(make_episode, make_trace, tmp_path):
    """`(name, right) -> folder`: 30 letter episodes of 10 videos in two tasks; `right(i)`: whether episode i is answered right."""

    def make(name, right, task=lambda i: ("OCR", "ACR")[i % 2], keep=lambda i: True):
        late = ((30, 30, 30),)
        episodes = [make_episode(f"e{i:02}", "RT", late, 30.0, form="letter", task=task(i), video=f"v{i // 3}") for i in range(30)]
        episodes.append(make_episode("far", "FAR", task="CRR", video="v0"))
        folder = tmp_path / name
        folder.mkdir()
        traces = [make_trace(e, {15: "B" if right(i) else "A"}, name) for i, e in enumerate(episodes[:-1])]
        traces.append(make_trace(episodes[-1], {10: "the kettle boils"} if right(0) else {}, name))
        traces = [t if keep(i) else Trace(t.episode_id, name, (), "broken") for i, t in enumerate(traces)]
        write_episodes(folder / "episodes.jsonl", episodes)
        write_traces(folder / "traces.jsonl", traces)
        return folder

    return make


def rows_of(*folders):
    found = compare([read_run(folder) for folder in folders])
    return found, {(row["score"], row["name"]): row for row in found["rows"]}


def test_differences_are_those_of_the_means(make_run):
    found, rows = rows_of(make_run("a", lambda i: i % 5 == 0), make_run("b", lambda i: i % 5 < 2))
    assert (found["episodes"], found["videos"], found["warnings"]) == (31, 10, [])
    for name in ("OCR", "ACR"):
        assert rows["S", name]["values"] == pytest.approx([20, 40]) and rows["S", name]["differences"][0] is None
        assert rows["S", name]["differences"][1]["mean"] == pytest.approx(20)
    assert rows["S", "RT"]["values"] == pytest.approx([20, 40]) and rows["S", "FAR"]["values"] == [100, 100]
    assert rows["S", "overall"]["values"] == pytest.approx([60, 70])
    assert ("E", "overall") not in rows and rows["E", "FAR"]["differences"][1]["mean"] == 0


def test_a_constant_gain_is_certain_however_different_the_videos_are(make_run):
    """Run b is right on one episode more of every video: unpaired, the videos' own spread would hide it."""
    _, rows = rows_of(
        make_run("a", lambda i: i < 15 and i % 3 == 0, lambda i: "OCR"),
        make_run("b", lambda i: (i < 15 and i % 3 == 0) or i % 3 == 1, lambda i: "OCR"),
    )
    change = rows["S", "OCR"]["differences"][1]
    assert change["ci95"] == pytest.approx([100 / 3, 100 / 3]) and change["p"] == pytest.approx(1e-4)


def test_equal_runs_do_not_differ_and_order_only_turns_the_sign(make_run):
    rng = random.Random(0)
    one, two = ([rng.random() < 0.5 for _ in range(31)] for _ in range(2))
    a, b = make_run("a", lambda i: one[i]), make_run("b", lambda i: two[i])
    _, same = rows_of(a, a)
    assert all(row["differences"][1] == {"mean": 0.0, "ci95": [0.0, 0.0], "p": 1.0} for row in same.values())
    _, forth = rows_of(a, b)
    _, back = rows_of(b, a)
    for key, row in forth.items():
        there, here = row["differences"][1], back[key]["differences"][1]
        assert (there["mean"], there["p"]) == pytest.approx((-here["mean"], here["p"]))
        assert there["ci95"] == pytest.approx([-here["ci95"][1], -here["ci95"][0]])


def test_only_what_all_have_scored_is_compared_and_it_is_said(make_run):
    a, b = make_run("a", lambda i: True), make_run("b", lambda i: i != 4, keep=lambda i: i not in (0, 1))
    found, rows = rows_of(a, b)
    assert found["episodes"] == 29 and any("a: 29 of its 31 episodes" in w for w in found["warnings"])
    assert rows["S", "OCR"]["values"] == pytest.approx([100, 100 * 13 / 14])
    card = json.loads((b / "scores.json").read_text())
    card["header"]["judge"] = "somebody"
    (b / "scores.json").write_text(json.dumps(card))
    assert any(w.endswith("were not measured alike: judge") for w in rows_of(a, b)[0]["warnings"])


@pytest.mark.parametrize("width", ["80", "48"])
def test_no_digit_is_lost_where_the_terminal_is_narrow(make_run, width):
    names = ("Sequential Question Answering", "Contextual Understanding")
    folders = [make_run(name, lambda i, n=n: i % 5 < n, lambda i: names[i % 2]) for name, n in (("one", 1), ("two", 2), ("three", 4))]
    result = CliRunner().invoke(app, ["compare", *map(str, folders)], env={"COLUMNS": width})
    assert result.exit_code == 0 and "…" not in result.stdout.replace(" … ", "")
    found = json.loads(CliRunner().invoke(app, ["compare", *map(str, folders), "--json"]).stdout)
    for row in found["rows"]:
        for value, change in zip(row["values"][1:], row["differences"][1:]):
            assert f"{value:.1f}" in result.stdout and interval(change) in result.stdout


def test_nothing_to_pair_is_an_error(make_run, tmp_path):
    a = make_run("a", lambda i: True)
    with pytest.raises(ArgumentError, match="two runs or more"):
        compare([read_run(a)])
    none = make_run("none", lambda i: True, keep=lambda i: i < 1)
    other = make_run("other", lambda i: True, keep=lambda i: i > 0)
    with pytest.raises(ArgumentError, match="no episode in common"):
        compare([read_run(none), read_run(other)])
    result = CliRunner().invoke(app, ["compare", str(a)])
    assert result.exit_code == 2 and "two runs or more" in result.stderr


def test_the_command_prints_a_table_json_and_a_page(make_run, tmp_path):
    folders = [str(make_run(name, lambda i, n=n: i % 5 < n)) for name, n in (("one", 1), ("two", 2), ("three", 4))]
    result = CliRunner().invoke(app, ["compare", *folders], env={"COLUMNS": "160"})
    assert result.exit_code == 0 and "B - A" in result.stdout and "C - A" in result.stdout and "+20.0" in result.stdout
    found = json.loads(CliRunner().invoke(app, ["compare", *folders, "--json", "--html", str(tmp_path / "c.html")]).stdout)
    assert [run["run_id"] for run in found["runs"]] == ["one", "two", "three"]
    page = (tmp_path / "c.html").read_text()
    assert page.count("<svg") == 2 and "+60.0" in page and "three" in page
    failed = CliRunner().invoke(app, ["compare", *folders, "--html", str(tmp_path / "no" / "c.html")])
    assert (failed.exit_code, failed.stderr.count("\n")) == (1, 1) and f"{tmp_path}/no/c.html: No such file" in failed.stderr
