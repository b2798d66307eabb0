"""DALI gets small files and gives frames: the right packets in, each frame at its tick, and PyAV where DALI cannot go on."""

import gc
import io
import os
import threading
import warnings
from collections import Counter
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from evostreaming.engine import video, video_dali, video_dali_pipeline
from evostreaming.engine.capture_turns import Turns
from evostreaming.engine.errors import ArgumentError, VideoError
from evostreaming.engine.video import FrameSource, open_source, where_decoded
from evostreaming.engine.video_dali import DaliFile, refusal
from evostreaming.engine.video_dali_colors import colors_of
from evostreaming.engine.video_file import VideoFile
from evostreaming.engine.video_pool import DecodePool
from evostreaming.kernels.recolor import recolor

CLIPS = Path(os.environ.get("EVOSTREAMING_SHARED") or Path(__file__).parents[2] / ".." / "shared") / "data" / "video"
NAMES = sorted(p for p in os.listdir(CLIPS) if p.endswith(("mp4", "webm", "avi"))) if CLIPS.exists() else []
CPU = torch.device("cpu")
PIPELINE = video_dali.DaliPipeline
needs_dali = pytest.mark.skipif(not video_dali.installed(), reason="DALI is not installed")


class Double:
    """Stands for a pipeline: decodes each small file by itself, as DALI does, with PyAV."""

    files, closed = 0, 0

    @classmethod
    @contextmanager
    def lent(cls, device):
        yield cls()

    def close(self):
        Double.closed += 1

    def apart(self, function, *arguments):
        return function(*arguments)

    def sequences(self, data, count):
        Double.files += 1
        with av.open(io.BytesIO(data)) as container:
            frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        assert len(frames) == count, "every picture of the file is one that was sent"
        yield from torch.stack(frames).split(video_dali_pipeline.SEQUENCE)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix, red, blue", [(5, 0.299, 0.114), (1, 0.2126, 0.0722)])
def test_what_dali_adds_to_colors_on_a_gpu_is_taken_away(matrix, red, blue, full):
    """DALI 2.4's arithmetic there on every fifth color: BT.601 whatever the file says, from 1/16 and 1/2 of 255 for 16 and 128."""
    steps = np.arange(0 if full else 16, 256 if full else 236, 5)
    y, u, v = np.stack(np.meshgrid(steps, steps, steps)).reshape(3, -1)
    black, reach, color_reach = (0, 255, 255) if full else (16, 219, 224)

    def rgb(red, blue, y, u, v):
        y, u, v = y * 255 / reach, u * 255 / color_reach, v * 255 / color_reach
        r, b = y + (2 - 2 * red) * v, y + (2 - 2 * blue) * u
        return np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], -1).round().clip(0, 255)

    given = rgb(0.299, 0.114, y - (0 if full else 255 / 16), u - 127.5, v - 127.5)
    wanted = rgb(red, blue, y - black, u - 128.0, v - 128.0)
    colors = colors_of(SimpleNamespace(matrix=matrix, full_range=full), torch.device("cuda"))
    found, _ = recolor(torch.from_numpy(given.astype(np.uint8)).view(1, -1, 1, 3), *colors)
    apart = np.abs(found.view(-1, 3).numpy() - wanted).max(1)
    if matrix == 1:  # what was cut off before the matrix is changed is gone
        apart = apart[((given > 0) & (given < 255)).all(1)]
    assert len(apart) > 10_000 and apart.max() <= (2 if matrix == 1 else 1)


@pytest.fixture(autouse=True)
def nothing_is_short(monkeypatch):
    monkeypatch.setattr(video_dali, "SHORT", 0)


@pytest.fixture
def double(monkeypatch):
    Double.files = Double.closed = 0
    monkeypatch.setattr(video_dali, "DaliPipeline", Double)
    monkeypatch.setattr(video_dali, "colors_of", lambda file, device: ())  # the double converts colors as PyAV does
    return Double


def read(reader, fps, **options):
    with FrameSource(reader, fps, **options) as source:
        return list(source)


@pytest.mark.parametrize("chunk", [30_000, 16 << 20])
@pytest.mark.parametrize("name", NAMES)
def test_small_files_hold_what_the_ticks_of_a_clip_need(name, chunk, double, monkeypatch):
    monkeypatch.setattr(video_dali, "CHUNK_BYTES", chunk)
    for fps, start, end in ((None, 0, 4), (0.5, 0, 16), (7, 2.3, 6), (None, 3.1, 4)):
        wanted = read(VideoFile(CLIPS / name), fps, start=start, end=end)
        for a, b in zip(read(DaliFile(VideoFile(CLIPS / name), CPU), fps, start=start, end=end), wanted, strict=True):
            assert a[1:] == b[1:] and torch.equal(a.pixels, b.pixels) and a.pixels.is_contiguous()
    assert double.files >= (3 if chunk > 1 << 20 else 4)


def test_a_stretch_without_a_key_frame_that_memory_may_not_hold_goes_to_pyav(tmp_path, film, double, monkeypatch):
    monkeypatch.setattr(video_dali, "MOST_BYTES", 2000)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 61)], options={"g": "250"})
    with pytest.warns(UserWarning, match="a video is decoded on the CPU: 0 MB of it are without a key frame"):
        frames = read(DaliFile(VideoFile(path), CPU), None)
    assert [film.number(f.pixels) for f in frames] == list(range(1, 61)) and not double.files


def pipelines(**members):
    """The real bookkeeping of pipelines around doubles."""
    shared = {name: classmethod(getattr(PIPELINE, name).__func__) for name in ("lent", "ready", "order", "cancel", "_build")}
    state = {"_idle": {}, "_lent": Counter(), "_building": Counter(), "_lock": threading.Lock(), "_builders": None}
    return type("Late", (Double,), shared | state | members)


@pytest.mark.parametrize("fps, numbers", [(None, list(range(1, 121))), (10, list(range(1, 121, 3)))])
def test_pyav_decodes_while_a_pipeline_is_built_and_then_gives_way(tmp_path, film, double, monkeypatch, fps, numbers):
    gate = threading.Event()
    late = pipelines(__init__=lambda self, device: gate.wait(10) and None)
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
    many = pipelines(__init__=lambda self, device: None)
    monkeypatch.setattr(video_dali, "DaliPipeline", many)
    monkeypatch.setattr(DaliFile, "_by_pyav", None)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 31)])
    with many.lent(CPU):
        frames = read(DaliFile(VideoFile(path), CPU, patient=False), None)
    assert [film.number(f.pixels) for f in frames] == list(range(1, 31))
    assert len(many._idle["cpu"]) == 2 and not many._building["cpu"]


def test_a_file_that_ends_before_its_pipeline_is_built_never_waits_for_it(tmp_path, film, double, monkeypatch):
    begun, gate = threading.Event(), threading.Event()
    late = pipelines(__init__=lambda self, device: begun.set() or (gate.wait(10) and None))
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
    many = pipelines(__init__=lambda self, device: None)
    monkeypatch.setattr(video_dali, "DaliPipeline", many)
    monkeypatch.setattr(video_dali, "SHORT", short)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 41)], options={"g": "10"})
    with many.lent(CPU):  # one is at work, so another one would come at once
        frames = read(DaliFile(VideoFile(path), CPU, patient=False), None)
    assert [film.number(f.pixels) for f in frames] == list(range(1, 41)) and double.files == by_dali
    assert len(read(DaliFile(VideoFile(path), CPU), None)) == 40 and double.files == by_dali + 1, "who asks for DALI gets it"


def test_pipelines_that_cannot_be_built_leave_everything_to_pyav(tmp_path, film, monkeypatch):
    def fail(self, device):
        raise RuntimeError("no driver")

    late = pipelines(__init__=fail)
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
    many = pipelines(__init__=lambda self, device: None)
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


def test_black_that_is_none_sends_the_rest_to_pyav(tmp_path, film, double, monkeypatch):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 91)], options={"g": "30"})
    whole = Double.sequences
    monkeypatch.setattr(Double, "sequences", lambda *a: (f if i < 5 else torch.zeros_like(f) for i, f in enumerate(whole(*a))))
    assert [film.number(f.pixels) for f in read(DaliFile(VideoFile(path), CPU), 10)] == list(range(1, 91, 3))


def test_black_that_is_there_is_believed(tmp_path, film, double):
    black = film.picture(0)
    path = film.write(tmp_path / "clip.mp4", [film.picture(7), *[black] * 20, film.picture(9)])
    file = VideoFile(path)
    assert [film.number(f.pixels) for f in read(DaliFile(file, CPU), None)] == [7, *[0] * 20, 9]
    assert double.files == 1 and file.decoded < 22 + 12, "one look settles a stretch of black"


def test_a_pipeline_that_fails_is_dropped_and_pyav_goes_on(tmp_path, film, monkeypatch):
    class Broken(Double):
        def __init__(self, device):
            made.append(self)

        def sequences(self, data, count):
            with av.open(io.BytesIO(data)) as container:
                for frame, _ in zip(container.decode(video=0), range(25)):
                    yield torch.from_numpy(frame.to_ndarray(format="rgb24"))[None]
            raise RuntimeError("Critical error in pipeline:\nencountered:\n\nno more sessions\nPipeline is no longer valid.")

    made, broken = [], Broken
    broken.lent = classmethod(video_dali.DaliPipeline.lent.__func__)
    broken._idle, broken._lent, broken._lock = {}, Counter(), threading.Lock()
    monkeypatch.setattr(video_dali, "DaliPipeline", broken)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(60)], options={"g": "30", "bf": "0"})
    with pytest.warns(UserWarning, match="DALI gave up on a video.*no more sessions"):
        frames = read(DaliFile(VideoFile(path), CPU), None)
    assert [(film.number(f.pixels), f.index) for f in frames] == [(i, i) for i in range(60)]
    assert len(made) == 1 and not broken._idle["cpu"] and not broken._lent["cpu"]


def test_files_beyond_the_sessions_of_the_decoder_go_to_pyav(tmp_path, film, monkeypatch):
    class Session(Double):
        alive = 0
        lent = classmethod(video_dali.DaliPipeline.lent.__func__)
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


def test_a_file_deleted_between_index_and_decoding_is_one_error(tmp_path, film, double, monkeypatch):
    path = film.write(tmp_path / "gone.mp4", [film.picture(i) for i in range(30)])
    file = VideoFile(path)
    plan = file.plan(Fraction(0), None, None)
    monkeypatch.setattr(file, "plan", lambda *_: plan)
    path.unlink()
    with FrameSource(DaliFile(file, CPU), None) as source, pytest.raises(VideoError, match="cannot be opened, No such file"):
        next(source)


@pytest.mark.skipif(not NAMES, reason="the clips are not beside this checkout")
def test_a_file_that_was_cut_off_is_found_out_from_its_index(double):
    told = []
    for reader in (VideoFile(CLIPS / "bad" / "truncated.mp4"), DaliFile(VideoFile(CLIPS / "bad" / "truncated.mp4"), CPU)):
        indices = []
        with FrameSource(reader, 2) as source, pytest.raises(VideoError) as caught:
            for frame in source:
                indices.append((frame.index, frame.time))
        told.append((indices, str(caught.value)))
    assert told[0] == told[1] and not double.files


def test_a_change_of_size_midway_is_not_sent_to_dali(changing, double):
    frames = read(DaliFile(VideoFile(changing), CPU), None)
    assert [tuple(f.pixels.shape[:2]) for f in frames] == [(48, 64)] * 10 + [(80, 32)] * 10 and not double.files


def test_refusals_name_the_reason(tmp_path, film, monkeypatch):
    monkeypatch.setattr(video_dali, "installed", lambda: True)
    engine = {"engines": 7, "min": (48, 16), "max": (4096, 4096), "max_macroblocks": 65536}
    monkeypatch.setattr(video_dali, "capabilities", lambda codec, device: engine if codec == "h264" else None)
    film.write(tmp_path / "a.mp4", [film.picture(1)])
    film.write(tmp_path / "b.mkv", [film.picture(1)], codec="ffv1", pix_fmt="bgr0")
    film.write(tmp_path / "c.mp4", [film.picture(1, 16, 16)])
    film.write(tmp_path / "d.webm", [film.picture(1)], codec="libvpx-vp9")
    gpu = torch.device("cuda")
    assert refusal(VideoFile(tmp_path / "a.mp4"), gpu) is None
    assert "its codec is h264; mjpeg, vp8, vp9" in refusal(VideoFile(tmp_path / "a.mp4"), CPU)
    assert "its pixels are bgr0" in refusal(VideoFile(tmp_path / "b.mkv"), gpu)
    full = VideoFile(tmp_path / "d.webm")
    full.full_range = True
    assert "it is vp9 whose black is 0" in refusal(full, gpu)
    assert "its size is 16x16; even sizes from 48x16 to 4096x4096" in refusal(VideoFile(tmp_path / "c.mp4"), gpu)
    assert "vp9, which this GPU does not decode" in refusal(VideoFile(tmp_path / "d.webm"), gpu)
    assert refusal(VideoFile(tmp_path / "d.webm"), CPU) is None


def test_without_a_gpu_auto_is_pyav_and_dali_has_to_be_asked_for(tmp_path, film, monkeypatch):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(4)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_source(path, device="cpu") as source:
            assert len(list(source)) == 4
    monkeypatch.setattr(video_dali, "installed", lambda: False)
    with pytest.raises(VideoError, match=r"cannot be decoded by DALI on cpu: DALI is not installed; pip install 'evostreaming\[dali\]'"):
        open_source(path, decoder="dali", device="cpu")
    with pytest.raises(ArgumentError, match="decoder='ffmpeg': one of auto, dali, pyav"):
        open_source(path, decoder="ffmpeg")


def test_what_auto_leaves_to_the_cpu_is_said_once(tmp_path, film, monkeypatch):
    monkeypatch.setattr(video_dali, "installed", lambda: True)
    monkeypatch.setattr(video_dali, "capabilities", lambda codec, device: None)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(4)])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        for _ in range(3):
            with open_source(path, device="cuda") as source:
                assert len(list(source)) == 4
    assert [str(w.message) for w in said] == ["a video is decoded on the CPU: its codec is h264, which this GPU does not decode"]


def test_where_a_codec_is_decoded_is_told(monkeypatch):
    assert set(where_decoded(["h264", "av1"]).values()) <= {"cpu"} or torch.cuda.is_available()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(video_dali, "installed", lambda: True)
    monkeypatch.setattr(video, "capabilities", lambda codec, device: {"engines": 7} if codec == "h264" else None)
    assert where_decoded(["h264", "av1", "vp9"]) == {"h264": "cuda:1, 7 engines", "av1": "cpu", "vp9": "cpu"}


@needs_dali
@pytest.mark.skipif(not NAMES, reason="the clips are not beside this checkout")
@pytest.mark.parametrize("fps", [None, 0.5, 7])
def test_dali_on_the_cpu_shows_what_pyav_shows(fps):
    path = CLIPS / "nasa_odd_vp9.webm"
    with open_source(path, fps, decoder="dali", device="cpu") as source:
        frames = list(source)
    video_dali.DaliPipeline._idle.clear()  # the frames outlive what decoded them
    gc.collect()
    for a, b in zip(frames, read(VideoFile(path), fps), strict=True):
        assert a[1:] == b[1:] and (a.pixels.float() - b.pixels.float()).abs().mean() < 1
