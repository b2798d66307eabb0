"""DALI gets small files and gives frames: the right packets in, each frame at its tick, and PyAV where DALI cannot go on."""

import gc
import os
import subprocess
import sys
import warnings
import weakref
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evostreaming.engine import video, video_dali
from evostreaming.engine.errors import ArgumentError, VideoError
from evostreaming.engine.video import FrameSource, open_source, where_decoded
from evostreaming.engine.video_dali import DaliFile, refusal
from evostreaming.engine.video_dali_colors import colors_of
from evostreaming.engine.video_file import VideoFile
from evostreaming.kernels.recolor import recolor

CLIPS = Path(os.environ.get("EVOSTREAMING_SHARED") or Path(__file__).parents[2] / ".." / "shared") / "data" / "video"
NAMES = sorted(p for p in os.listdir(CLIPS) if p.endswith(("mp4", "webm", "avi"))) if CLIPS.exists() else []
CPU = torch.device("cpu")
needs_dali = pytest.mark.skipif(not video_dali.installed(), reason="DALI is not installed")


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


def read(reader, fps, **options):
    with FrameSource(reader, fps, **options) as source:
        return list(source)


@pytest.mark.parametrize("chunk", [30_000, 16 << 20])
@pytest.mark.parametrize("name", NAMES)
def test_small_files_hold_what_the_ticks_of_a_clip_need(name, chunk, double, monkeypatch):
    monkeypatch.setattr(video_dali, "FIRST_BYTES", chunk)
    monkeypatch.setattr(video_dali, "CHUNK_BYTES", 2 * chunk)
    for fps, start, end in ((None, 0, 4), (0.5, 0, 16), (7, 2.3, 6), (None, 3.1, 4)):
        wanted = read(VideoFile(CLIPS / name), fps, start=start, end=end)
        for a, b in zip(read(DaliFile(VideoFile(CLIPS / name), CPU), fps, start=start, end=end), wanted, strict=True):
            assert a[1:] == b[1:] and torch.equal(a.pixels, b.pixels) and a.pixels.is_contiguous()
    assert double.files >= (3 if chunk > 1 << 20 else 4)


def test_a_video_is_sent_in_a_small_file_and_then_in_larger_ones_that_are_let_go_of(tmp_path, film, double, monkeypatch):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 121)], options={"g": "10", "bf": "0"})
    monkeypatch.setattr(video_dali, "FIRST_BYTES", path.stat().st_size // 8)
    monkeypatch.setattr(video_dali, "CHUNK_BYTES", path.stat().st_size // 3)
    sent, whole = [], double.sequences

    def sequences(self, data, count):
        sent.append((weakref.ref(data), count))
        frames = list(whole(self, data, count))
        del data
        for frame in frames:
            assert sent[-1][0]() is None, "the small file is held while its frames are shown"
            yield frame

    monkeypatch.setattr(double, "sequences", sequences)
    assert [film.number(f.pixels) for f in read(DaliFile(VideoFile(path), CPU), None)] == list(range(1, 121))
    counts = [count for _, count in sent]
    assert len(counts) > 2 and counts[1] >= 2 * counts[0]


def test_a_stretch_without_a_key_frame_that_memory_may_not_hold_goes_to_pyav(tmp_path, film, double, monkeypatch):
    monkeypatch.setattr(video_dali, "MOST_BYTES", 2000)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 61)], options={"g": "250"})
    with pytest.warns(UserWarning, match="a video is decoded on the CPU: 0 MB of it are without a key frame"):
        frames = read(DaliFile(VideoFile(path), CPU), None)
    assert [film.number(f.pixels) for f in frames] == list(range(1, 61)) and not double.files


def test_black_that_is_none_sends_the_rest_to_pyav(tmp_path, film, double, monkeypatch):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(1, 91)], options={"g": "30"})
    whole = double.sequences
    monkeypatch.setattr(double, "sequences", lambda *a: (f if i < 5 else torch.zeros_like(f) for i, f in enumerate(whole(*a))))
    assert [film.number(f.pixels) for f in read(DaliFile(VideoFile(path), CPU), 10)] == list(range(1, 91, 3))


def test_black_that_is_there_is_believed(tmp_path, film, double, monkeypatch):
    black, looks, plain = film.picture(0), [], DaliFile._really_black
    monkeypatch.setattr(DaliFile, "_really_black", lambda file, time: looks.append(time) or plain(file, time))
    path = film.write(tmp_path / "clip.mp4", [film.picture(7), *[black] * 20, film.picture(9)])
    assert [film.number(f.pixels) for f in read(DaliFile(VideoFile(path), CPU), None)] == [7, *[0] * 20, 9]
    assert double.files == 1 and looks == [Fraction(1, 30)], "one look settles a stretch of black"


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


@needs_dali
@pytest.mark.skipif(not NAMES, reason="the clips are not beside this checkout")
@pytest.mark.parametrize("opened", ["DecodePool(4).open", "open_source"])
def test_a_program_that_ends_in_the_middle_of_videos_ends_well_and_quietly(opened):
    program = (
        "from evostreaming.engine.video import open_source\n"
        "from evostreaming.engine.video_pool import DecodePool\n"
        f"opened = {opened}\n"
        f"sources = [opened({str(CLIPS / 'nasa_odd_vp9.webm')!r}, decoder='dali', device='cpu') for _ in range(3)]\n"
        "for source in sources: next(source)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
