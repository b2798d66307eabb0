"""Rows of the bench that are more than a step of one stream: many streams, `scan` against stepping, all backbones."""

import json

import pytest
from typer.testing import CliRunner

from evostreaming.benchmarks.backbones import measure_backbones, reference_floor
from evostreaming.benchmarks.bench import Rows
from evostreaming.benchmarks.cli import app
from evostreaming.benchmarks.floors import Ceilings
from evostreaming.benchmarks.measure import FEWEST_STEPS, Place, measure_engine
from evostreaming.benchmarks.random_checkpoint import MODELS, read_config, size_of
from evostreaming.benchmarks.scanning import measure_scan, run
from evostreaming.benchmarks.subject import Subject, Unavailable
from evostreaming.engine.config import ModelConfig


@pytest.fixture(scope="module")
def tiny():
    return Subject.load("tiny", device="cpu")


def test_streams_of_a_row_share_no_page_and_hold_the_same(tiny):
    place = Place(tiny, 300, 3)
    streams = place.fill(3)
    pages = [stream.context.table.pages for stream in streams]
    assert len({page for table in pages for page in table}) == sum(map(len, pages)), "pages that are shared would be read from the cache"
    frame = [place.frames[0]] * 3
    first, *others = (step.probability for step in place.engine.step(frame, streams=streams, force=False))
    assert others == pytest.approx([first] * 2, abs=1e-6)
    assert len({tuple(stream.context.tokens) for stream in streams}) == 1


def test_a_row_that_takes_too_long_has_fewer_steps(tiny):
    ceilings = Ceilings(1e10, 1e11)
    assert measure_engine(tiny, ceilings, 100, 1, None, 15, seconds=0.0)["steps"] == FEWEST_STEPS
    assert measure_engine(tiny, ceilings, 100, 1, None, 12)["steps"] == 12


def test_scan_and_stepping_watch_the_same_frames(tiny):
    rows = measure_scan(tiny, 100, None, count=20)
    assert [(row["silent"], row["frames"]) for row in rows] == [(1.0, 20), (0.9, 20)]
    assert all(row["ratio"] == pytest.approx(row["step_ms"] / row["scan_ms"]) for row in rows)


def test_a_way_that_speaks_more_often_than_it_should_is_refused(tiny):
    place = Place(tiny, 100, 2, room=8)
    (stream,) = place.fill(1)
    with pytest.raises(Unavailable, match="0 turns of 2 were silent instead of 2"):
        run(tiny.device, stream, lambda fork, force: [place.engine.step(place.frames[0], fork, force="yes")] * 2, None, 2)


def test_all_backbones_are_set_against_their_floors(tiny, tmp_path):
    calls = []
    results = measure_backbones(Rows((150,)), 3, lambda name: tiny, tmp_path, lambda *done: calls.append(done), names=("one", "two"))
    assert [len(result["rows"]) for result in results] == [1, 1]
    assert {(index, name) for index, name, _ in calls} == {(0, "one"), (1, "two")} and calls[-1][2] == 1.0
    assert json.loads((tmp_path / "backbones.json").read_text()) == json.loads(json.dumps(results))
    lines = (tmp_path / "backbones.md").read_text().splitlines()
    row = results[0]["rows"][0]
    ratio = row["total"]["p50"] / row["reference_floor_ms"]
    assert sum(f"| {ratio:,.2f} | missed |" in line for line in lines) >= 1, "a CPU is not as fast as an H200"
    assert (tmp_path / "two" / "bench.md").exists()


def test_the_command_takes_all_published_sizes_and_prints_what_it_has_when_it_is_ended_early(tiny, tmp_path, monkeypatch):
    asked = []

    def load(model, random, *rest):
        asked.append(random)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return tiny

    monkeypatch.setattr(Subject, "load", load)
    arguments = ["backbones", "--device", "cpu", "--context", "120", "--steps", "2", "--out", str(tmp_path)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 130 and asked == list(MODELS)[:4]
    assert "# 3 backbones" in result.stdout and "times the floor" in result.stdout


def test_floors_that_backbones_are_held_to_are_those_of_the_table():
    asked = {"asked": {"context": 8192}, "streams": 1, "frame": [448, 448]}
    table = {"qwen2-vl-7b": (256, 7.19), "qwen2.5-vl-7b": (256, 7.02), "qwen3-vl-8b": (196, 5.66), "minicpm-v-4.5": (64, 4.96)}
    for name, (tokens, floor) in table.items():
        config = ModelConfig.from_json(*read_config(name))
        assert reference_floor(config, asked | {"tokens_per_frame": tokens}) == pytest.approx(floor, rel=0.01)


def test_a_published_size_is_known_by_its_configuration(tiny):
    assert [size_of(ModelConfig.from_json(*read_config(name))) for name in MODELS] == list(MODELS)
    assert size_of(tiny.config) is None
