"""Files of a pool that FFmpeg reads, decodes and converts in one call a picture: the same frames, times and errors as packet by packet."""

import os
import struct
from fractions import Fraction

import av
import numpy as np
import pytest

from evostreaming.engine.errors import VideoError
from evostreaming.engine.video import open_source
from evostreaming.engine.video_colors import ToRgb
from evostreaming.engine.video_file import VideoFile

REGULAR = ["h264", "hevc", "mpeg4"]


@pytest.fixture
def ways(monkeypatch):
    """The ways in which files are decoded, as they begin."""
    begun = []
    for name in ("_decode_whole", "_decode"):
        plain = getattr(VideoFile, name)
        monkeypatch.setattr(VideoFile, name, lambda *a, name=name, plain=plain, **k: begun.append(name) or plain(*a, **k))
    return begun


def read(source):
    """(time, index, pixels) of all frames, and the error behind them."""
    frames = []
    try:
        with source:
            for frame in source:
                frames.append((frame.time, frame.index, frame.pixels.numpy()))
    except VideoError as error:
        return frames, str(error)
    return frames, None


def assert_same(pool, path, **options):
    """A pool gives what packets one by one give. Returns the number of frames and the error."""
    (expected, error), (found, said) = read(open_source(path, **options)), read(pool.open(path, **options))
    assert [frame[:2] for frame in found] == [frame[:2] for frame in expected] and said == error
    for one, other in zip(found, expected):
        np.testing.assert_array_equal(one[2], other[2])
    return len(found), error


@pytest.mark.parametrize("encoding", REGULAR, indirect=True)
def test_a_regular_file_is_read_in_one_way_to_its_end(tmp_path, film, pool, ways, encoding):
    codec, suffix, options = encoding
    path = film.write(tmp_path / f"a: 'file', [0]; \\n=1%.{suffix}", [film.picture(i) for i in range(100)], codec=codec, options=options)
    assert read(pool.open(path))[1] is None
    assert ways == ["_decode_whole"]
    assert assert_same(pool, path) == (100, None)


@pytest.mark.parametrize("form, height, options", [
    ("yuvj420p", 64, {}),
    ("yuv420p", 64, {"x264-params": "interlaced=1"}),
    ("yuv420p", 64, {"x264-params": "colormatrix=bt709:colorprim=bt709:transfer=bt709"}),
    ("yuv420p", 64, {"x264-params": "fullrange=on"}),
    ("yuv422p", 64, {}),
    ("yuv420p10le", 64, {}),
    ("yuv420p", 61, None),
])  # fmt: skip
@pytest.mark.parametrize("turn", [None, (90, False, False), (-90, True, False), (180, False, False)])
def test_colors_and_turns_are_the_same(tmp_path, film, pool, form, height, options, turn):
    pictures = list(np.random.default_rng(0).integers(0, 256, (8, height, 90, 3), np.uint8))
    codec = "libx264" if options is not None else "libvpx-vp9"  # which has odd heights
    path = film.write(tmp_path / "clip.mp4", pictures, options=options, codec=codec, turn=turn, pix_fmt=form)
    assert assert_same(pool, path) == (8, None)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("where", [0.0, 0.4, 0.98])
def test_damage_costs_the_same_pictures_and_is_said_in_the_same_words(tmp_path, film, pool, ways, codec, where):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(60)], codec=codec, options={"g": "12", "bf": "0"})
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    begin, size = packets[int(where * len(packets))]
    data = bytearray(path.read_bytes())
    data[begin : begin + size] = bytes(size)
    path.write_bytes(data)
    count, error = assert_same(pool, path)
    assert 50 < count < 60 and (not where or "1 of 60 packets cannot be decoded" in error)
    assert ("_decode_whole" in ways) == (where > 0)  # pictures are counted from the first one


def test_a_gap_is_no_damage_and_what_follows_is_still_decoded_on_several_threads(tmp_path, film, pool, ways):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(60)], [*range(40), *range(47, 67)])
    assert read(pool.open(path))[1] is None
    assert ways == ["_decode_whole", "_decode"]
    assert assert_same(pool, path) == (60, None)


@pytest.mark.parametrize("offset", [0, 5120, 1 << 20])
def test_no_picture_is_lost_where_time_stamps_are_damaged(tmp_path, film, pool, ways, offset):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(60)], options={"bf": "2", "g": "20"})
    data = bytearray(path.read_bytes())
    offsets = data.find(b"ctts") + 12  # behind it pairs of a count and an offset, in order of decoding (ISO 14496-12, 8.6.1.3)
    for entry in (21, 22, 30):
        struct.pack_into(">I", data, offsets + 8 * entry + 4, offset)
    path.write_bytes(data)
    (alone, _), (found, error) = read(open_source(path)), read(pool.open(path))
    assert error is None and len(found) >= 55 and "_decode_whole" in ways
    for one, other in zip(found, alone, strict=True):  # FFmpeg mends some of their times
        np.testing.assert_array_equal(one[2], other[2])


def test_a_change_of_size_delivers_each_picture_in_its_own(tmp_path, pool):
    path, noise = tmp_path / "clip.mp4", np.random.default_rng(0).integers(0, 256, (5, 81, 64, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25, width=64, height=48, pix_fmt="yuvj420p")
        for part, (width, height) in enumerate([(64, 48), (32, 81)]):
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "yuvj420p", Fraction(1, 25)
            for i in range(5):
                picture = np.ascontiguousarray(noise[i, :height, :width])
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuvj420p")
                frame.pts = 5 * part + i
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    container.mux(packet)
    assert assert_same(pool, path) == (10, None)
    assert [frame[2].shape for frame in read(pool.open(path))[0]] == [(48, 64, 3)] * 5 + [(81, 32, 3)] * 5


def test_a_name_that_is_no_text_is_read_all_the_same(tmp_path, film, pool):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(5)])
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.mp4")
    os.rename(path, odd)
    assert assert_same(pool, odd) == (5, None)


def test_memory_of_pictures_that_are_gone_is_used_again_and_never_while_one_is_held(tmp_path, film):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(100)])
    held, addresses = [], set()
    for number, (_, pixels) in enumerate(ToRgb("clip").whole(f"file:{path}", 0, (48, 64), (False, False, False), 1)):
        held = [*held[-3:], (number, pixels)]
        addresses.add(pixels.data_ptr())
        assert [film.number(pixels) for _, pixels in held] == [number for number, _ in held]
    assert number == 99 and len(addresses) < 20


@pytest.mark.parametrize("name", [
    "people_one_by_one.mp4", "bbb_opening_hevc.mp4", "bottles_vfr.mp4", "people_rotated.mp4", "nasa_two_streams.mp4",
    "signs_portrait_mpeg4.avi", "bad/corrupted_middle.mp4", "bad/truncated.mp4", "bad/one_frame.mp4",
])  # fmt: skip
def test_real_clips_and_broken_ones_are_the_same(pool, shared, name):
    assert assert_same(pool, shared / "data" / "video" / name)[0] > 0


def test_a_second_stream_is_the_same(pool, shared):
    path = shared / "data" / "video" / "nasa_two_streams.mp4"
    first, second = (assert_same(pool, path, stream=number) for number in (0, 1))
    assert first != second
