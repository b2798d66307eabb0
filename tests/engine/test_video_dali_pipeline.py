"""DALI's pipelines: built in the background, lent and given back, freed in their turn, and PyAV where there is none."""

import io
import threading
import warnings
from collections import Counter
from fractions import Fraction

import av
import pytest
import torch

from evostreaming.engine import video_dali, video_dali_pipeline
from evostreaming.engine.capture_turns import Turns
from evostreaming.engine.video import FrameSource
from evostreaming.engine.video_dali import DaliFile
from evostreaming.engine.video_file import VideoFile
from evostreaming.engine.video_pool import DecodePool

CPU = torch.device("cpu")
PIPELINE = video_dali.DaliPipeline


def read(reader, fps, **options):
    with FrameSource(reader, fps, **options) as source:
        return list(source)


def pipelines(double, **members):
    """The real bookkeeping of pipelines around doubles."""
    shared = {name: classmethod(getattr(PIPELINE, name).__func__) for name in ("lent", "ready", "order", "cancel", "_build")}
    state = {"_idle": {}, "_lent": Counter(), "_building": Counter(), "_lock": threading.Lock(), "_builders": None}
    return type("Late", (double,), shared | state | members)


@pytest.mark.parametrize("fps, numbers", [(None, list(range(1, 121))), (10, list(range(1, 121, 3)))])
def test_pyav_decodes_while_a_pipeline_is_built_and_then_gives_way(tmp_path, film, double, monkeypatch, fps, numbers):
    gate = threading.Event()
    late = pipelines(double, __init__=lambda self, device: gate.wait(10) and None)
    monkeypatch.setattr(video_dali, "DaliPipeline", late)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 121)], options={"g": "15"})
    with FrameSource(DaliFile(VideoFile(path), CPU, patient=False), fps, queue=1) as source:
        frames = [next(source) for _ in range(7)]
        assert late._building == {"cpu": 1} and not double.files, "one is ordered, none waited for"
        gate.set()
        late._builders.shutdown()
        frames += source
    assert [(film.number(f.pixels), f.index) for f in frames] == [(k, k - 1) for k in numbers]
    assert double.files >= 1 and len(late._idle["cpu"]) == 1 and not late._lent["cpu"] and not late._building["cpu"]


def test_beside_files_that_dali_decodes_one_more_does_not_begin_on_the_cpu(tmp_path, film, double, monkeypatch):
    many = pipelines(double, __init__=lambda self, device: None)
    monkeypatch.setattr(video_dali, "DaliPipeline", many)
    monkeypatch.setattr(DaliFile, "_by_pyav", None)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 31)])
    with many.lent(CPU):
        frames = read(DaliFile(VideoFile(path), CPU, patient=False), None)
    assert [film.number(f.pixels) for f in frames] == list(range(1, 31))
    assert len(many._idle["cpu"]) == 2 and not many._building["cpu"]


def test_a_file_that_ends_before_its_pipeline_is_built_never_waits_for_it(tmp_path, film, double, monkeypatch):
    begun, gate = threading.Event(), threading.Event()
    late = pipelines(double, __init__=lambda self, device: begun.set() or (gate.wait(10) and None))
    monkeypatch.setattr(video_dali, "DaliPipeline", late)
    monkeypatch.setattr(video_dali_pipeline, "BUILT_AT_ONCE", 1)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 31)])
    for _ in range(4):
        with FrameSource(DaliFile(VideoFile(path), CPU, patient=False), queue=1) as source:
            numbers = [film.number(next(source).pixels)]
            assert begun.wait(10)
            assert numbers + [film.number(f.pixels) for f in source] == list(range(1, 31))
    assert not double.files and not gate.is_set()
    assert late._building == {"cpu": 1}, "those that were not begun are cancelled with their files"
    gate.set()
    late._builders.shutdown()
    assert len(late._idle["cpu"]) == 1


@pytest.mark.parametrize("short, by_dali", [(40 * 64 * 48 + 1, 0), (40 * 64 * 48, 1)])
def test_what_a_cpu_decodes_before_a_pipeline_has_begun_is_left_to_it(tmp_path, film, double, monkeypatch, short, by_dali):
    many = pipelines(double, __init__=lambda self, device: None)
    monkeypatch.setattr(video_dali, "DaliPipeline", many)
    monkeypatch.setattr(video_dali, "SHORT", short)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 41)], options={"g": "10"})
    with many.lent(CPU):  # one is at work, so another one would come at once
        frames = read(DaliFile(VideoFile(path), CPU, patient=False), None)
    assert [film.number(f.pixels) for f in frames] == list(range(1, 41)) and double.files == by_dali
    assert len(read(DaliFile(VideoFile(path), CPU), None)) == 40 and double.files == by_dali + 1, "who asks for DALI gets it"


def test_the_index_is_read_once_whoever_decodes(tmp_path, film, double, monkeypatch):
    monkeypatch.setattr(video_dali, "SHORT", 1e9)
    path, reads, plain = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 61)]), [], VideoFile._index
    monkeypatch.setattr(VideoFile, "_index", lambda file: reads.append(1) or plain(file))
    frames = read(DaliFile(VideoFile(path), CPU, patient=False), 2)
    assert [film.number(f.pixels) for f in frames] == [1, 16, 31, 46] and not double.files
    assert len(reads) == 1


def test_pipelines_that_cannot_be_built_leave_everything_to_pyav(tmp_path, film, double, monkeypatch):
    def fail(self, device):
        raise RuntimeError("no driver")

    late = pipelines(double, __init__=fail)
    monkeypatch.setattr(video_dali, "DaliPipeline", late)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 31)])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with FrameSource(DaliFile(VideoFile(path), CPU, patient=False)) as source:
            assert [film.number(f.pixels) for f in source] == list(range(1, 31))
        late._builders.shutdown()
    assert any("DALI cannot start" in str(w.message) and "no driver" in str(w.message) for w in said) and not late._building["cpu"]


def test_a_pipeline_left_in_the_middle_of_a_file_is_freed_at_once_and_one_at_its_end_is_kept(tmp_path, film, double, monkeypatch):
    """Whenever else it went, it might make a capture void."""
    many = pipelines(double, __init__=lambda self, device: None)
    monkeypatch.setattr(video_dali, "DaliPipeline", many)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 41)])
    assert len(read(DaliFile(VideoFile(path), CPU), None)) == 40
    assert double.closed == 0 and len(many._idle["cpu"]) == 1
    pictures = DaliFile(VideoFile(path), CPU).pictures(Fraction(0), None)
    next(pictures)
    pictures.close()
    assert double.closed == 1 and not many._idle["cpu"] and not many._lent["cpu"]


def test_a_pipeline_is_freed_in_its_turn(monkeypatch):
    class Freed:
        def __del__(self):
            waiting.append(turns._waits)

    turns = Turns()
    monkeypatch.setattr(video_dali_pipeline, "TURNS", turns)
    waiting, pipeline = [], object.__new__(PIPELINE)
    pipeline._pipeline = Freed()
    pipeline.close()
    assert waiting == [1]


def test_a_pipeline_that_gives_more_pictures_than_packets_is_not_used_again(tmp_path, film, monkeypatch):
    class Chatty:
        def feed_input(self, name, data):
            pass

        def run(self):
            return (torch.zeros(1, 8, 4, 4, 3, dtype=torch.uint8),)

    pipeline = object.__new__(video_dali.DaliPipeline)
    pipeline._pipeline, pipeline._stream = Chatty(), None
    with pytest.raises(RuntimeError, match="more pictures came"):
        list(pipeline.sequences(b"1", 12))


def test_a_pipeline_that_fails_is_dropped_and_pyav_goes_on(tmp_path, film, double, monkeypatch):
    class Broken(double):
        def __init__(self, device):
            made.append(self)

        def sequences(self, data, count):
            with av.open(io.BytesIO(data)) as container:
                for frame, _ in zip(container.decode(video=0), range(25)):
                    yield torch.from_numpy(frame.to_ndarray(format="rgb24"))[None]
            raise RuntimeError("Critical error in pipeline:\nencountered:\n\nno more sessions\nPipeline is no longer valid.")

    made, broken = [], Broken
    broken.lent = classmethod(PIPELINE.lent.__func__)
    broken._idle, broken._lent, broken._lock = {}, Counter(), threading.Lock()
    monkeypatch.setattr(video_dali, "DaliPipeline", broken)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(60)], options={"g": "30", "bf": "0"})
    with pytest.warns(UserWarning, match="DALI gave up on a video.*no more sessions"):
        frames = read(DaliFile(VideoFile(path), CPU), None)
    assert [(film.number(f.pixels), f.index) for f in frames] == [(i, i) for i in range(60)]
    assert len(made) == 1 and not broken._idle["cpu"] and not broken._lent["cpu"]


def test_files_beyond_the_sessions_of_the_decoder_go_to_pyav(tmp_path, film, double, monkeypatch):
    class Session(double):
        alive = 0
        lent = classmethod(PIPELINE.lent.__func__)
        _idle, _lent, _lock = {}, Counter(), threading.Lock()

        def __init__(self, device):
            if Session.alive == 2:
                raise RuntimeError("no more sessions")
            Session.alive += 1

    monkeypatch.setattr(video_dali, "DaliPipeline", Session)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 61)], options={"g": "30"})
    for most, message in ((2, "2 videos are being decoded by DALI on cpu"), (3, "DALI gave up on a video.*no more sessions")):
        monkeypatch.setattr(video_dali_pipeline, "MOST", most)
        with pytest.warns(UserWarning, match=message), DecodePool(workers=2) as pool:
            sources = [FrameSource(DaliFile(VideoFile(path), CPU), None, queue=1, pool=pool) for _ in range(5)]
            first = [next(source) for source in sources]
            for source, frame in zip(sources, first):
                assert [film.number(f.pixels) for f in (frame, *source)] == list(range(1, 61))
        assert Session.alive == len(Session._idle["cpu"]) == 2 and not Session._lent["cpu"]
