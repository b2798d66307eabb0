"""What NVDEC gives through DALI: PyAV's pictures at PyAV's times, and nothing that takes the process with it. Needs a GPU and DALI."""

import gc
import os
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from evostreaming.engine import video_dali
from evostreaming.engine.errors import VideoError
from evostreaming.engine.video import FrameSource, open_source
from evostreaming.engine.video_dali import refusal
from evostreaming.engine.video_file import VideoFile
from evostreaming.engine.video_pool import DecodePool

CLIPS = Path(os.environ.get("EVOSTREAMING_SHARED") or Path(__file__).parents[2] / ".." / "shared") / "data" / "video"
NAMES = sorted(p for p in os.listdir(CLIPS) if p.endswith(("mp4", "webm", "avi"))) if CLIPS.exists() else []
needs_dali = pytest.mark.skipif(not video_dali.installed(), reason="DALI is not installed")


def read(reader, fps, **options):
    with FrameSource(reader, fps, **options) as source:
        return list(source)


def on_the_gpu(path, fps=None, decoder="dali", **options):
    """Frames decoded there; a warning, which is how a fallback is told, is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_source(path, fps, decoder=decoder, device="cuda", **options) as source:
            return list(source)


def apart(a, b):
    """Mean difference of two frames in gray levels, wherever they are."""
    return (a.pixels.cpu().float() - b.pixels.cpu().float()).abs().mean().item()


@needs_dali
@pytest.mark.gpu
@pytest.mark.parametrize("fps", [0.5, 7])
@pytest.mark.parametrize("name", NAMES)
def test_dali_on_the_gpu_shows_what_pyav_shows(name, fps):
    file = VideoFile(CLIPS / name)
    if reason := refusal(file, torch.device("cuda", 0)):
        pytest.skip(reason)
    frames = on_the_gpu(CLIPS / name, fps, end=20)
    for a, b in zip(frames, read(VideoFile(CLIPS / name), fps, end=20), strict=True):
        assert a[1:] == b[1:] and a.pixels.is_cuda and apart(a, b) < 2


READ = """
import sys, warnings
import numpy as np
from evostreaming.engine.video import open_source
warnings.simplefilter("error")
path, folder = sys.argv[1:]
for fps in (None, 10, 1):
    with open_source(path, fps, decoder="dali", device="cuda") as source:
        frames = list(source)
    np.savez(f"{folder}/{fps}.npz", index=[f.index for f in frames], pixels=[f.pixels.cpu().numpy() for f in frames])
"""


@needs_dali
@pytest.mark.gpu
@pytest.mark.parametrize("encoding", ["h264", "h264 open-gop", "h264 ts", "hevc", "vp9"], indirect=True)
def test_on_the_gpu_every_picture_stands_at_its_time(encoding, tmp_path, film):
    codec, suffix, options = encoding
    pictures = [film.picture(i, 320, 192) for i in range(70)]
    path = film.write(tmp_path / f"clip.{suffix}", pictures, codec=codec, options=options)
    # In a process of its own: what dies inside the decoder then has the name of its file.
    done = subprocess.run([sys.executable, "-X", "faulthandler", "-c", READ, path, tmp_path], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-3000:]
    for fps, step in ((None, 1), (10, 3), (1, 30)):
        found = np.load(tmp_path / f"{fps}.npz")
        assert [film.number(torch.from_numpy(each)) for each in found["pixels"]] == list(found["index"]) == list(range(0, 70, step))


@needs_dali
@pytest.mark.gpu
def test_on_the_gpu_times_of_a_variable_rate_and_turned_pictures_are_kept(tmp_path, film):
    pts = [0, 99, 100, 101, 1999, 2000, 2001, 5999, 6000, 6001]
    pictures = [film.picture(17 * i, 320, 192) for i in range(len(pts))]
    path = film.write(tmp_path / "vfr.mp4", pictures, pts, time_base=Fraction(1, 1000), options={"bf": "2"}, turn=(180, False, False))
    for fps in (None, 0.5, 10):
        frames, wanted = on_the_gpu(path, fps), read(VideoFile(path), fps)
        for a, b in zip(frames, wanted, strict=True):
            assert a[1:] == b[1:] and film.number(a.pixels) == film.number(b.pixels) and apart(a, b) < 2


@needs_dali
@pytest.mark.gpu
def test_pictures_too_small_and_too_large_for_the_gpu_and_changing_ones_are_decoded_on_the_cpu(tmp_path, film, changing):
    small = film.write(tmp_path / "small.mp4", [film.picture(i, 16, 16) for i in (1, 129)])
    large = film.write(tmp_path / "8k.mp4", [film.picture(i, 7680, 4320) for i in (1, 129)], options={"preset": "ultrafast"})
    for path in (small, large):
        with pytest.warns(UserWarning, match="a video is decoded on the CPU: its size is"), open_source(path, device="cuda") as source:
            assert [film.number(f.pixels) for f in source] == [1, 129]
        with pytest.raises(VideoError, match="cannot be decoded by DALI on cuda:0: its size is"):
            open_source(path, decoder="dali", device="cuda")
    if refusal(VideoFile(changing), torch.device("cuda", 0)) is None:
        assert [film.number(f.pixels) for f in on_the_gpu(changing)] == list(range(20))


@needs_dali
@pytest.mark.gpu
@pytest.mark.skipif(not NAMES, reason="the clips are not beside this checkout")
def test_on_the_gpu_each_broken_file_costs_only_itself(tmp_path, film):
    good = film.write(tmp_path / "good.mp4", [film.picture(i, 320, 192) for i in range(60)])
    bad = sorted((CLIPS / "bad").iterdir())
    paths = [good, *bad, good]
    with DecodePool(workers=4) as pool:
        ended, frames = {}, {}
        for row in pool.rounds([{"source": path, "fps": 2, "device": "cuda"} for path in paths], streams=4):
            for number, frame in row:
                if frame is None or isinstance(frame, VideoError):
                    ended[number] = frame
                else:
                    frames.setdefault(number, []).append(frame)
    assert [f.index for f in frames[0]] == [f.index for f in frames[len(bad) + 1]] == [0, 15, 30, 45]
    assert ended[0] is None and ended[len(bad) + 1] is None
    # What is damaged inside its packets may be decoded without a word; what is no video or cut off may not.
    told = {path.name for number, path in enumerate(bad, 1) if isinstance(ended[number], VideoError)}
    assert told - {"corrupted_middle.mp4"} == {path.name for path in bad} - {"corrupted_middle.mp4", "one_frame.mp4"}


@needs_dali
@pytest.mark.gpu
def test_on_the_gpu_a_deleted_file_is_read_to_its_end_and_more_files_than_engines_all_are(tmp_path, film):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i, 320, 192) for i in range(60)], options={"g": "10"})
    with DecodePool(workers=16) as pool:
        sources = [pool.open(path, decoder="dali", device="cuda", queue=1) for _ in range(32)]
        first = [next(source) for source in sources]
        path.unlink()
        for source, frame in zip(sources, first):
            assert [film.number(f.pixels) for f in (frame, *source)] == list(range(60))


@needs_dali
@pytest.mark.gpu
def test_on_the_gpu_a_file_begins_before_there_is_a_pipeline_and_frames_outlive_it(tmp_path, film, monkeypatch):
    monkeypatch.setattr(video_dali, "SHORT", 0)
    path = film.write(tmp_path / "clip.mp4", [film.picture(i, 320, 192) for i in range(200)], options={"g": "10"})
    video_dali.DaliPipeline._idle.clear()
    frames = []
    for decoder in ("auto", "dali"):
        with open_source(path, decoder=decoder, device="cuda") as source:
            frames += source
        video_dali.DaliPipeline._idle.clear()
        gc.collect()
        again = on_the_gpu(path)  # what was let go of is written again, if it was not ours
        assert len(again) == 200
    torch.cuda.synchronize()
    assert all(f.pixels.is_cuda for f in frames) and [film.number(f.pixels) for f in frames] == 2 * list(range(200))


def formula(path, red, blue, full):
    """RGB of the first picture by the definition of its colors, chroma interpolated between the middles of squares of four pixels."""
    with av.open(str(path)) as container:
        planes = next(container.decode(video=0)).to_ndarray().astype(float)
    width, height = 320, 192
    u, v = (_twice(_twice(plane.reshape(height // 2, width // 2)).T).T - 128 for plane in np.split(planes[height:], 2))
    y = planes[:height] if full else (planes[:height] - 16) * 255 / 219
    u, v = (u, v) if full else (u * 255 / 224, v * 255 / 224)
    r, b = y + (2 - 2 * red) * v, y + (2 - 2 * blue) * u
    return np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], -1)


def _twice(rows):
    padded = np.concatenate([rows[:1], rows, rows[-1:]])
    return np.stack([padded[:-2] + 3 * rows, 3 * rows + padded[2:]], 1).reshape(-1, rows.shape[1]) / 4


@needs_dali
@pytest.mark.gpu
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix, red, blue", [(1, 0.2126, 0.0722), (5, 0.299, 0.114)])
def test_on_the_gpu_colors_are_those_the_file_says(matrix, red, blue, full, tmp_path):
    down, across = np.mgrid[:192, :320]
    # No color so strong that a channel ends at 0 or 255, and chroma that shows it where it is taken a quarter of a pixel beside its place.
    planes = [
        128 + 40 * np.sin(across / 20) * np.cos(down / 17),
        128 + 20 * np.sin(across[::2, ::2] / 6),
        128 + 20 * np.cos(down[::2, ::2] / 5),
    ]
    picture = np.concatenate([plane.ravel() for plane in planes]).round().astype(np.uint8).reshape(288, 320)
    path = tmp_path / "colors.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "4"})
        stream.width, stream.height, stream.pix_fmt = 320, 192, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode())
    file = VideoFile(path)
    assert (file.matrix, file.full_range) == (matrix, full)
    wanted = formula(path, red, blue, full)
    assert wanted.min() > 0 and wanted.max() < 255
    found = on_the_gpu(path)[0]
    difference = found.pixels.cpu().numpy() - wanted
    assert np.abs(difference).max() <= 2 and np.abs(difference.mean((0, 1))).max() < 0.5, difference.mean((0, 1))
    # FFmpeg rounds each product down, which makes it 1 to 1.5 darker, and takes one chroma for four pixels, which shows in these waves.
    assert apart(found, read(file, None)[0]) < 2.5
