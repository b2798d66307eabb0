"""Generated videos whose pixels say which frame they are: codecs, rates, sizes, turns, folders of images, odd sources."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from evostreaming.engine.errors import ArgumentError, VideoError
from evostreaming.engine.video import FrameSource, open_source, probe
from evostreaming.engine.video_file import VideoFile


def test_pictures_index_and_time_belong_together_in_every_codec(film, tmp_path, encoding):
    codec, suffix, options = encoding
    path = film.write(tmp_path / f"clip.{suffix}", [film.picture(i) for i in range(50)], codec=codec, options=options)
    with open_source(path) as source:
        frames = [(film.number(f.pixels), f.index, f.time) for f in source]
    assert [f[0] for f in frames] == [f[1] for f in frames] == list(range(50))
    np.testing.assert_allclose([f[2] for f in frames], np.arange(50) / 30, atol=6e-4)
    with open_source(path, 5, start=0.95, end=1.5) as source:
        assert [(film.number(f.pixels), f.index, round(f.time, 6)) for f in source] == [(30, 30, 1.0), (36, 36, 1.2), (42, 42, 1.4)]


def test_sampling_of_a_variable_rate_is_exact_at_the_tick(film, tmp_path):
    base = Fraction(1, 1000)
    pts = [0, 99, 100, 101, 1999, 2000, 2001, 5999, 6000, 6001]
    path = film.write(tmp_path / "vfr.mp4", [film.picture(i) for i in range(len(pts))], pts, time_base=base, options={"bf": "2"})
    with open_source(path) as source:
        assert [round(f.time * 1000) for f in source] == pts
    with open_source(path, 0.5) as source:  # a frame exactly at the tick is not after it; a gap repeats the picture
        assert [(film.number(f.pixels), f.index, f.time) for f in source] == [(0, 0, 0.0), (5, 5, 2.0), (6, 6, 4.0), (8, 8, 6.0)]
    with open_source(path, 10) as source:
        assert [f.index for f in source][:3] == [0, 2, 3]
    with open_source(path, 0.1) as source:
        assert [f.index for f in source] == [0]


def test_rates_that_binary_fractions_miss_keep_their_ticks(film, tmp_path):
    path = film.write(tmp_path / "slow.mp4", [film.picture(i) for i in range(32)], pts=list(range(32)), time_base=Fraction(1, 1), rate=1)
    with open_source(path, 0.1) as source:  # the double nearest to 0.1 would put the tick before the frame at 10 s, or after it
        assert [(film.number(f.pixels), f.time) for f in source] == [(0, 0.0), (10, 10.0), (20, 20.0), (30, 30.0)]
    with open_source(path, 1 / 3) as source:
        assert [film.number(f.pixels) for f in source] == list(range(0, 32, 3))


def test_time_starts_at_the_first_frame(film, tmp_path):
    path = film.write(tmp_path / "late.mkv", [film.picture(i) for i in range(10)], pts=list(range(300, 310)))
    with open_source(path, 10) as source:
        assert [(f.index, round(f.time, 6)) for f in source] == [(0, 0.0), (3, 0.1), (6, 0.2), (9, 0.3)]


@pytest.mark.parametrize("size", [(16, 16), (17, 13), (1, 1), (3, 200)])
def test_small_and_odd_sizes(film, tmp_path, size):
    height, width = size
    picture = np.zeros((height, width, 3), np.uint8)
    picture[..., 0], picture[: (height + 1) // 2, :, 1] = 200, 200
    path = film.write(tmp_path / "odd.mkv", [picture] * 3, codec="ffv1", pix_fmt="bgr0")
    with open_source(path) as source:
        assert (source.height, source.width) == size
        frames = list(source)
    assert len(frames) == 3
    np.testing.assert_array_equal(frames[-1].pixels.numpy(), picture)
    assert frames[0].pixels.dtype == torch.uint8


@pytest.mark.parametrize("degrees, hflip, upright", [
    (0, False, lambda p: p),
    (90, False, lambda p: np.rot90(p, 1)),
    (180, False, lambda p: np.rot90(p, 2)),
    (-90, False, lambda p: np.rot90(p, -1)),
    (0, True, np.fliplr),
    (180, True, np.flipud),
])  # fmt: skip
def test_turned_and_mirrored_recordings_stand_upright(film, tmp_path, degrees, hflip, upright):
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:16, :24], picture[:16, 24:], picture[16:, :24] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    lossless = {"codec": "libx264rgb", "options": {"qp": "0"}, "pix_fmt": "rgb24"}
    path = film.write(tmp_path / "turned.mov", [picture] * 2, turn=(degrees, hflip, False), **lossless)
    expected = upright(picture)
    with open_source(path) as source:
        assert (source.height, source.width) == expected.shape[:2]
        np.testing.assert_array_equal(next(source).pixels.numpy(), expected)


def test_a_change_of_size_midway_delivers_each_frame_in_its_own_size(film, changing):
    with open_source(changing) as source:
        assert (source.width, source.height) == (64, 48)
        frames = list(source)
    assert [film.number(f.pixels) for f in frames] == list(range(20))
    assert [tuple(f.pixels.shape) for f in frames] == [(48, 64, 3)] * 10 + [(80, 32, 3)] * 10


def test_recordings_appended_to_each_other_go_on_in_time(film, tmp_path):
    pts = [*range(30), *range(31, 91, 2)]
    parts = [
        film.write(tmp_path / f"{k}.ts", [film.picture(k + i) for i in range(60)], pts, options={"bf": "0", "g": "20"}) for k in (0, 60)
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with open_source(path) as source:
        frames = [(film.number(f.pixels), f.time) for f in source]
    assert [f[0] for f in frames] == list(range(120))
    times = np.array([f[1] for f in frames])
    np.testing.assert_allclose(times[:60], np.array(pts) / 30, atol=1e-4)
    np.testing.assert_allclose(times[60:] - times[60], np.array(pts) / 30, atol=1e-4)
    assert 0 < times[60] - times[59] < 0.1
    with open_source(path, start=4.0) as source:
        assert [(film.number(f.pixels), f.time) for f in source] == [f for f in frames if f[1] >= 4.0]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_a_cut_file_says_so_even_when_the_decoder_does_not(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (90, 48, 64, 3), np.uint8)
    options = {"movflags": "faststart"} if suffix == "mp4" else None
    path = tmp_path / f"whole.{suffix}"
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=30, options={"bf": "0", "g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with open_source(path) as source:
        assert sum(1 for _ in source) == 90
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    frames = []
    with open_source(cut) as source, pytest.raises(VideoError, match=r"ends at [12]\.\d\d s of 3\.00 s") as caught:
        for frame in source:
            frames.append(frame)
    assert 40 <= len(frames) <= 60
    assert caught.value.time == frames[-1].time


def test_a_stream_without_a_stated_duration_ends_without_an_error(film, tmp_path):
    fragmented = tmp_path / "fragments.mp4"
    with av.open(str(fragmented), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
        stream = container.add_stream("libx264", rate=30, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(film.picture(i), format="rgb24")))
        container.mux(stream.encode())
    raw = film.write(tmp_path / "raw.h264", [film.picture(i) for i in range(40)], options={"bf": "0"})
    for path in (fragmented, raw):
        with open_source(path) as source:
            assert [film.number(f.pixels) for f in source] == list(range(40))


def test_missing_and_odd_sources_are_named(film, tmp_path):
    with pytest.raises(VideoError, match=r"nowhere\.mp4: there is no such file"):
        open_source(tmp_path / "nowhere.mp4")
    with pytest.raises(VideoError, match="ftp:// is not read"):
        open_source("ftp://host/clip.mp4")
    with pytest.raises(TypeError, match="list"):
        open_source(["a.mp4"])
    path = film.write(tmp_path / "name with : colon.mp4", [film.picture(1)] * 3)
    with open_source(path) as source:
        assert len(list(source)) == 3


def test_arguments_out_of_range_are_argument_errors_that_name_them(film, tmp_path):
    path, shots = film.write(tmp_path / "clip.mp4", [film.picture(1)] * 3), tmp_path / "shots"
    shots.mkdir()
    Image.fromarray(film.picture(1)).save(shots / "1.png")
    nan, inf = float("nan"), float("inf")
    wrong = {"fps": (0, -1, nan, inf), "start": (-1, nan, inf), "end": (0, -1, nan, inf), "queue": (0, -1), "decoder": ("ffmpeg",)}
    for name, values in wrong.items():
        for value in values:
            for source in (path, shots)[: 1 if name == "decoder" else 2]:
                with pytest.raises(ArgumentError, match=name):
                    open_source(source, **{name: value})
    with pytest.raises(ArgumentError, match="start=2.0, end=1.0: 0 <= start < end is accepted"):
        open_source(path, start=2, end=1)


def test_a_file_deleted_while_it_is_read_is_read_to_its_end(tmp_path, film):
    for fps, numbers in ((None, list(range(60))), (1, [0, 30])):
        path = film.write(tmp_path / "gone.mp4", [film.picture(i) for i in range(60)], options={"g": "10"})
        with open_source(path, fps, queue=1) as source:
            first = next(source)
            path.unlink()
            assert [film.number(first.pixels), *(film.number(f.pixels) for f in source)] == numbers


@pytest.mark.parametrize("fps", [None, 1])
def test_a_file_deleted_before_it_is_read_is_one_error(tmp_path, film, fps):
    reader = VideoFile(film.write(tmp_path / "gone.mp4", [film.picture(i) for i in range(60)]))
    (tmp_path / "gone.mp4").unlink()
    with FrameSource(reader, fps) as source:
        with pytest.raises(VideoError, match="cannot be opened, No such file"):
            next(source)
        assert next(source, None) is None


def test_the_smallest_h264_that_players_meet(tmp_path, film):
    path = film.write(tmp_path / "16.mp4", [film.picture(i, 16, 16) for i in (1, 129, 77)])
    for fps, numbers in ((None, [1, 129, 77]), (30, [1, 129, 77]), (10, [1])):
        with open_source(path, fps) as source:
            assert (source.width, source.height) == (16, 16)
            assert [film.number(f.pixels) for f in source] == numbers


def test_a_picture_of_eight_thousand_columns(tmp_path, film):
    path = film.write(tmp_path / "8k.mp4", [film.picture(i, 7680, 4320) for i in (1, 129)], options={"preset": "ultrafast"})
    with open_source(path, queue=1) as source:
        assert (source.width, source.height) == (7680, 4320)
        assert [film.number(f.pixels) for f in source] == [1, 129]


def test_a_folder_of_images_is_a_slow_video_in_natural_order(film, tmp_path):
    for i in range(12):
        Image.fromarray(film.picture(i)).save(tmp_path / f"shot{i}.png")
    (tmp_path / "notes.txt").write_text("no image")
    with open_source(tmp_path) as source:
        assert (source.fps, source.expected, source.duration, source.width, source.height) == (1.0, 12, 12.0, 64, 48)
        assert [(film.number(f.pixels), f.index, f.time) for f in source] == [(i, i, float(i)) for i in range(12)]
    with open_source(tmp_path, 4, start=1, end=2) as source:
        assert source.expected == 4
        assert [(film.number(f.pixels), f.time) for f in source] == [(4, 1.0), (5, 1.25), (6, 1.5), (7, 1.75)]
    assert probe(tmp_path)["codec"] == "png"


def test_an_image_that_cannot_be_read_costs_only_itself(film, tmp_path):
    for i in range(6):
        Image.fromarray(film.picture(i)).save(tmp_path / f"{i}.png")
    (tmp_path / "0.png").write_bytes(b"not an image")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:60])
    numbers = []
    with open_source(tmp_path) as source, pytest.raises(VideoError, match=r"0\.png.*cannot be read.*1 more.*3\.png") as caught:
        for frame in source:
            numbers.append((film.number(frame.pixels), frame.time))
    assert numbers == [(1, 1.0), (2, 2.0), (4, 4.0), (5, 5.0)]
    assert caught.value.time == 5.0


def test_a_folder_without_a_readable_image_is_an_error(tmp_path):
    with pytest.raises(VideoError, match="holds no image"):
        open_source(tmp_path)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(VideoError, match=r"a\.jpg"):
        open_source(tmp_path)


def test_images_stand_upright_and_lose_their_alpha(film, tmp_path):
    picture = film.picture(5)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: 90 degrees clockwise makes it upright
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.dstack([picture, picture[..., 0]])).save(tmp_path / "b.png")
    with open_source(tmp_path) as source:
        turned, plain = [f.pixels.numpy() for f in source]
    np.testing.assert_array_equal(turned, np.rot90(picture, -1))
    np.testing.assert_array_equal(plain, picture)
