"""Decoded frames as RGB: FFmpeg's own conversion to the bit, upright, in memory that is used again and never while it is held."""

import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from torch.profiler import profile

from evostreaming.engine.errors import VideoError
from evostreaming.engine.video_colors import ToRgb
from evostreaming.engine.video_push import PushSource

NOISE = np.random.default_rng(0).integers(0, 256, (6, 124, 158, 3), np.uint8)


def decoded(film, path, pictures, **options):
    """The frames of a file with `pictures`, as PyAV gives them."""
    with av.open(str(film.write(path, pictures, **options))) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("codec, form, height, width, options", [
    ("libx264", "yuv420p", 124, 128, {}),
    ("libx264", "yuv420p", 124, 158, {}),
    ("libx264", "yuv420p", 64, 64, {"x264-params": "interlaced=1"}),
    ("libx264", "yuvj420p", 62, 50, {}),
    ("libx264", "yuv422p", 62, 50, {}),
    ("libx264", "yuv420p10le", 62, 50, {}),
    ("libx265", "yuv444p", 62, 50, {"x265-params": "log-level=none"}),
    ("libvpx-vp9", "yuv420p", 61, 51, {"deadline": "realtime", "cpu-used": "8"}),
    ("libvpx-vp9", "yuv420p", 60, 51, {"deadline": "realtime", "cpu-used": "8"}),
    ("mpeg4", "yuv420p", 48, 62, {}),
    ("ffv1", "bgr0", 7, 5, {}),
    ("ffv1", "gray", 31, 33, {}),
])  # fmt: skip
def test_every_format_becomes_what_ffmpeg_makes_of_it(tmp_path, film, monkeypatch, threads, codec, form, height, width, options):
    monkeypatch.setattr("evostreaming.engine.video_colors.SMALL", 0)
    pictures = [np.ascontiguousarray(noise[:height, :width]) for noise in NOISE]
    to_rgb = ToRgb("clip", threads)
    for frame in decoded(film, tmp_path / "clip.mkv", pictures, codec=codec, pix_fmt=form, options=options):
        assert frame.format.name == form
        pixels = to_rgb(frame)
        assert pixels.is_contiguous() and pixels.dtype == torch.uint8
        np.testing.assert_array_equal(pixels.numpy(), frame.to_ndarray(format="rgb24"))


@pytest.mark.parametrize("form", ["yuv420p", "yuv444p"])
@pytest.mark.parametrize("degrees, hflip, upright", [
    (90, False, lambda p: np.rot90(p, 1)),
    (-90, False, lambda p: np.rot90(p, -1)),
    (90, True, lambda p: np.rot90(p, 1)[:, ::-1]),
    (-90, True, lambda p: np.rot90(p, -1)[:, ::-1]),
    (180, True, np.flipud),
])  # fmt: skip
def test_turns_and_mirrors_move_pixels_and_change_none(tmp_path, film, form, degrees, hflip, upright):
    to_rgb = ToRgb("clip")
    for frame in decoded(film, tmp_path / "turned.mp4", list(NOISE), pix_fmt=form, turn=(degrees, hflip, False)):
        pixels = to_rgb(frame)
        assert pixels.is_contiguous()
        np.testing.assert_array_equal(pixels.numpy(), upright(frame.to_ndarray(format="rgb24")))


@pytest.mark.parametrize("width", [128, 158])  # rows with and without padding
def test_memory_is_used_again_and_never_while_a_tensor_holds_it(tmp_path, film, width):
    to_rgb, places, held = ToRgb("clip"), [], []
    frames = decoded(film, tmp_path / "clip.mp4", [np.ascontiguousarray(noise[:, :width]) for noise in [*NOISE, *NOISE]])
    for frame in frames:
        places.append(to_rgb(frame).data_ptr())
    assert len(set(places)) < len(places) / 2
    for frame in frames:
        held.append(to_rgb(frame)[1:])  # a part of it holds all
    to_rgb.forget()
    for frame, pixels in zip(frames, held):
        np.testing.assert_array_equal(pixels.numpy(), frame.to_ndarray(format="rgb24")[1:])


def test_nothing_holds_a_frame_that_was_converted(tmp_path, film):
    """PyAV ties a frame whose side data was looked at into a cycle: of large videos gigabytes would wait for Python's collector."""
    to_rgb = ToRgb("clip")
    first, *frames = decoded(film, tmp_path / "clip.mp4", list(NOISE), turn=(90, False, False))
    to_rgb(first)
    for frame in frames:
        before = sys.getrefcount(frame)
        to_rgb(frame)
        assert sys.getrefcount(frame) == before


@pytest.mark.parametrize("width", [128, 158])
def test_a_frame_takes_no_operation_of_torch(tmp_path, film, width):
    """Each lets go of Python's lock: where eight videos decode at once, to get it back took longer than the frame."""
    frames = decoded(film, tmp_path / "clip.mp4", [np.ascontiguousarray(noise[:, :width]) for noise in NOISE])
    with profile() as profiled:
        to_rgb = ToRgb("clip")
        tensors = [to_rgb(frame) for frame in frames]
    operations = {event.name for event in profiled.events() if event.name.startswith("aten::")}
    assert len(tensors) == 6 and operations == {"aten::lift_fresh"}, "from_numpy's own"


def test_a_picture_that_ffmpeg_does_not_convert_is_an_error_of_its_source(film):
    strange = av.VideoFrame(16, 16, "rgb96be")
    with pytest.raises(VideoError, match=r"clip.*a rgb96be picture cannot be turned into RGB, Operation not supported .*1.50 s") as caught:
        ToRgb("clip")(strange, Fraction(3, 2))
    assert caught.value.time == 1.5
    with PushSource(source="call") as source:
        source.push(strange)
        with pytest.raises(VideoError, match="call.*a rgb96be picture"):
            next(source)
