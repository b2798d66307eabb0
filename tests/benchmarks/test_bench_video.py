"""The bench of video: the same frames from every decoder, rows that differ in one thing, tables that hold what was measured."""

import json
import time

import av
import pytest
import torch
from typer.testing import CliRunner

from evostreaming.benchmarks import bench_nvdec, bench_video, bench_video_sweep
from evostreaming.benchmarks.bench_video import Row, line, make_file, markdown, plain_pyav, rows, run, threaded
from evostreaming.benchmarks.cli import app
from evostreaming.benchmarks.subject import Subject
from evostreaming.engine import video_dali
from evostreaming.engine.gate import Gate
from evostreaming.engine.video import probe


def test_rows_differ_from_the_base_row_in_one_thing():
    table = rows(("h264", "hevc"), (720, 360), (None, 0.5), (8, 64))
    assert table[0] == Row("h264", 720, None, 8) and len(table) == 5
    assert Row("h264", 720, 0.5, 8) in table and Row("h264", 720, None, 64) in table


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "av1"])
def test_a_generated_file_is_as_long_as_asked_for(tmp_path, codec, monkeypatch):
    monkeypatch.setattr(bench_video, "UNIT", 50)
    facts = probe(make_file(tmp_path, codec, 90, 6))
    assert (facts["codec"], facts["width"], facts["height"], facts["fps"]) == (codec, 160, 90, 25.0)
    assert facts["duration"] == pytest.approx(6, abs=0.05)


def test_a_key_frame_stands_as_often_as_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_video, "UNIT", 50)
    with av.open(str(make_file(tmp_path, "h264", 90, 6, gop=10))) as container:
        keys = [number for number, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
    assert keys == list(range(0, 150, 10))


def test_a_reading_stops_when_its_time_is_over(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_video, "UNIT", 50)
    path = make_file(tmp_path, "h264", 90, 6)
    read = threaded(plain_pyav)
    assert read([path] * 3, None, time.perf_counter() + 60) == 3 * 150
    assert read([path] * 3, None, time.perf_counter()) == 3


def test_every_decoder_delivers_the_same_number_of_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_video, "UNIT", 50)
    said = []
    results = run(tmp_path, rows(("h264",), (90,), (None, 0.5), (2,)), 10, "cpu", said.append)
    assert {"EvoStreaming, PyAV", "plain PyAV"} <= {result["decoder"] for result in results}
    for result in results:
        if "error" not in result:  # DALI on the CPU has no H.264
            assert result["delivered"] == 2 * (250 if result["fps"] is None else 5)
            assert result["frames_per_s"] > 0 and result["video_s_per_s"] > 0 and result["cpu_cores"] > 0
    assert json.loads((tmp_path / "video.json").read_text())["rows"] == results
    assert said == [line(result) for result in results] and len(markdown(results).splitlines()) == 2 + len(results)


def test_the_command_measures_files_side_by_side(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(bench_video, "run", lambda folder, table, *_: asked.append((folder, table)) or [])
    done = CliRunner().invoke(app, ["video", "--streams", "4,64", "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert done.exit_code == 0, done.output
    ((folder, table),) = asked
    assert folder == tmp_path / "out" and table[0] == Row("h264", 720, None, 4) and {row.files for row in table} == {4, 64}
    assert {row.codec for row in table} == {"h264", "hevc", "vp9"} and {row.fps for row in table} == {None, 0.5, 1, 2}


def test_a_sweep_over_generated_videos_counts_its_turns_and_what_it_waited(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_video, "UNIT", 50)
    engine = Subject.load("tiny", device="cpu").engine(2048, 2, None)
    engine.gate = Gate(threshold=1.0)
    path = make_file(tmp_path, "h264", 90, 12, gop=50)
    result = bench_video_sweep.measure(engine, path, streams=2, turns=6, bundles=2)
    assert result["turns"] == 2 * 2 * 6 and 0 < result["waited"] < result["seconds"]
    assert result["share"] == pytest.approx(result["waited"] / result["seconds"])
    path.write_bytes(b"no video")
    with pytest.raises(RuntimeError, match="not a video"):
        bench_video_sweep.measure(engine, path, streams=2, turns=6, bundles=1)


@pytest.mark.skipif(not video_dali.installed(), reason="DALI is not installed")
def test_the_bench_of_the_decoding_engines_counts_the_frames_of_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_video, "UNIT", 50)
    monkeypatch.setattr(bench_nvdec, "FILES", 2)
    path, cpu = make_file(tmp_path, "vp9", 90, 20), torch.device("cpu")  # DALI's own codec there
    small = bench_nvdec.SmallFile(path, cpu)
    with bench_nvdec.DaliPipeline.lent(cpu) as pipeline:
        assert sum(small.bare(pipeline)) == sum(small.finished(pipeline)) == small.frames == 500
    assert bench_nvdec.side_by_side(2, lambda: small.again(bench_nvdec.SmallFile.bare), 0.2) > 0
    begun, rate, whole = bench_nvdec.every_frame(path, 2, cpu, 0.3)
    assert begun > 0 and rate > 0 and whole > 0 and bench_nvdec.sampled(path, cpu) > 0
