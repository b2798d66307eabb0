"""`evostreaming bench` on the built-in model: what it prints and saves, and that a part that fails costs itself alone."""

import json

import pytest
from typer.testing import CliRunner

from evostreaming.benchmarks import bench as module
from evostreaming.benchmarks.bench import Bench, Rows
from evostreaming.benchmarks.cli import app
from evostreaming.benchmarks.long_stream import long_stream
from evostreaming.benchmarks.subject import Subject, Unavailable
from evostreaming.engine.errors import ArgumentError

NUMBERS = ("first_ms", "last_ms", "first_p99_ms", "last_p99_ms", "drift_percent", "memory_growth", "host_memory_growth")


@pytest.fixture(scope="module")
def tiny():
    return Subject.load("tiny", device="cpu")


def run(*arguments):
    result = CliRunner().invoke(app, ["--device", "cpu", "--steps", "3", *map(str, arguments)])
    return result


def test_the_command_prints_and_saves_the_table_of_a_model(tmp_path):
    result = run("--context", "256,512", "--streams", "1,2", "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found == json.loads((tmp_path / "bench.json").read_text())
    assert [(row["asked"]["context"], row["streams"]) for row in found["rows"]] == [(256, 1), (512, 1), (256, 2)]
    for row in found["rows"]:
        # The first turn that reaches the context may overshoot it by a turn.
        assert row["asked"]["context"] <= row["context"] < row["asked"]["context"] + row["new_tokens"] + 40
        assert row["total"]["p50"] == pytest.approx(sum(stage["p50"] for stage in row["stages"].values()), rel=0.5)
        assert row["frames_per_second"] == pytest.approx(1e3 * row["streams"] / row["total"]["p50"])
        assert row["percent_of_floor"] == pytest.approx(100 * row["floor_ms"] / row["total"]["p50"])
    assert set(found["streams_per_device"]) == {"1", "2", "4"}
    assert not found["failed"]
    report = (tmp_path / "bench.md").read_text()
    assert "## Roofline" in report and found["machine"]["device"] in report
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("arguments", [("--context", "0"), ("--streams", "two"), ("--random", "gpt-2")])
def test_bad_arguments_exit_with_2_and_name_what_is_accepted(arguments, tmp_path):
    result = run(*arguments, "--out", tmp_path / "none")
    assert result.exit_code == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("what", ["step", "video"])
def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(what, tmp_path):
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(app, [what, "--device", "cpu", "--out", str(tmp_path / "file" / "out")])
    assert done.exit_code == 2 and "cannot be made" in done.output


def test_a_checkpoint_that_is_not_there_exits_with_4(tmp_path):
    assert run("--model", tmp_path, "--out", tmp_path).exit_code == 4


def test_each_further_value_varies_one_axis_of_the_base_row():
    rows = Rows((8192, 1024), (1, 8), (256, 128))
    assert rows.all == [(8192, 1, 256), (1024, 1, 256), (8192, 8, 256), (8192, 1, 128)]
    assert Rows((4096, 1024, 8192)).for_peers == [4096, 1024]


def test_a_peer_that_breaks_costs_its_own_row_and_a_reason(tiny, tmp_path, monkeypatch):
    class Broken:
        name, slow = "broken", False

        def __init__(self, subject, workload):
            raise RuntimeError("no such kernel")

    monkeypatch.setattr(module, "PEERS", (Broken, module.PEERS[0]))
    bench = Bench(tiny, Rows((200,)), 2, tmp_path)
    result = bench.run(bench.parts(peers=True), lambda number, name, fraction: None)
    assert [row["peer"] for row in result["peers"]] == [module.PEERS[1].name]
    assert [item["reason"] for item in result["failed"]] == ["RuntimeError: no such kernel"]
    assert result["peers"][0]["ratio"] == pytest.approx(result["peers"][0]["total"]["p50"] / result["rows"][0]["total"]["p50"])
    assert "no such kernel" in (tmp_path / "bench.md").read_text()


def test_a_peer_that_cannot_be_had_is_said_once(tiny, tmp_path, monkeypatch):
    class Absent:
        name, slow = "absent", False

        def __init__(self, subject, workload):
            raise Unavailable("it is not installed here")

    monkeypatch.setattr(module, "PEERS", (Absent,))
    bench = Bench(tiny, Rows((120, 60)), 2, tmp_path)
    result = bench.run(bench.parts(peers=True), lambda number, name, fraction: None)
    assert [item["reason"] for item in result["failed"]] == ["it is not installed here"]


def test_what_is_interrupted_keeps_what_was_measured(tiny, tmp_path, monkeypatch):
    def cut_off(subject, frames, *rest):
        yield {"frames": 7, "window": 60} | dict.fromkeys(NUMBERS, 1.0)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "long_stream", cut_off)
    monkeypatch.setattr(module, "PEERS", ())
    bench = Bench(tiny, Rows((60,)), 2, tmp_path)
    parts = bench.parts(frames=200)
    result = bench.run([*parts, ("never begun", None)], lambda number, name, fraction: None)
    assert result["interrupted"] and len(result["rows"]) == 1 and len(result["failed"]) == 1
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    report = (tmp_path / "bench.md").read_text()
    assert "| 7 | 60 |" in report and "not compared" in report and "interrupted" in report


def test_what_was_measured_is_saved_before_the_next_part_begins(tiny, tmp_path):
    bench = Bench(tiny, Rows((200, 260)), 2, tmp_path)
    saved = []

    def progress(number, name, fraction):
        if fraction == 0 and number:
            saved.append(len(json.loads((tmp_path / "bench.json").read_text())["rows"]))

    bench.run(bench.parts(peers=False), progress)
    assert saved == [1]


def test_a_frame_budget_that_the_model_cannot_meet_is_a_reason_not_a_row(tiny, tmp_path):
    bench = Bench(tiny, Rows((200,), (1,), (16, 4096)), 2, tmp_path)
    result = bench.run(bench.parts(peers=False), lambda number, name, fraction: None)
    assert len(result["rows"]) == 1 and "not 4096" in result["failed"][0]["reason"]


def test_a_long_stream_is_flat_and_its_logits_are_a_fresh_prefill_of_what_it_retains(tiny):
    pytest.importorskip("transformers")
    known = list(long_stream(tiny, 120, 256))
    assert [found["frames"] for found in known] == [*range(known[0]["frames"], 121, 12), 120], "each tenth, and the end"
    found = known[-1]
    assert found["logits_difference"] < 1e-5
    assert found["memory_growth"] < 2**22
    assert found["frames"] == 120 and 0 < found["filled_after"] < 30
    assert found["seconds_of_video"] == 60


def test_a_long_stream_that_kept_other_tokens_would_be_noticed(tiny, monkeypatch):
    pytest.importorskip("transformers")
    from evostreaming.benchmarks import long_stream as room

    keep = room.retained
    monkeypatch.setattr(room, "retained", lambda *arguments: keep(*arguments)[2:])
    assert room.retained_difference(tiny, 256, None, room.make_frames(room.FRAMES, (448, 448), tiny.device)) > 1e-3


def test_the_logits_of_a_window_of_three_frames_are_compared_too(tiny):
    """There every frame makes another one leave."""
    pytest.importorskip("transformers")
    from evostreaming.benchmarks import long_stream as room

    assert room.retained_difference(tiny, 150, None, room.make_frames(room.FRAMES, (448, 448), tiny.device)) < 1e-5


def test_a_stream_too_short_to_fill_its_window_is_refused(tiny):
    with pytest.raises(Unavailable, match="do not fill"):
        list(long_stream(tiny, 20, 2048))


def test_a_row_that_does_not_fit_is_listed_with_the_numbers_and_a_bench_without_any_row_fails(tmp_path):
    done = CliRunner().invoke(app, ["--streams", "100000", "--context", "512", "--steps", "1", "--out", str(tmp_path)])
    assert done.exit_code == 1 and "Traceback" not in done.output
    assert "GiB are free on the device" in (tmp_path / "bench.md").read_text()


def test_weights_are_not_made_for_a_quantization_that_the_device_does_not_have(monkeypatch):
    monkeypatch.setattr("evostreaming.benchmarks.subject.random_engine", lambda *_, **__: pytest.fail("30 GB of them"))
    with pytest.raises(ArgumentError, match="CUDA device"):
        Subject.load(random="qwen2.5-vl-7b", device="cpu", quantization="fp8")
