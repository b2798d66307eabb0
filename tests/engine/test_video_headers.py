"""What headers say wrongly: a good video is read all the same, or ends with a VideoError."""

import struct

import av
import pytest
import torch

from evostreaming.engine.errors import VideoError
from evostreaming.engine.video import open_source, probe
from evostreaming.engine.video_dali import refusal
from evostreaming.engine.video_file import VideoFile
from evostreaming.engine.video_index_process import IndexReaders
from evostreaming.engine.video_pool import DecodePool


def titled(film, path, title):
    """A film of 20 pictures whose title is the bytes `title`."""
    plain = film.write(path.with_stem("plain"), [film.picture(i) for i in range(20)])
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        target.metadata["title"] = "Q" * len(title)
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path.write_bytes(path.read_bytes().replace(b"Q" * len(title), title))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".flv"])
def test_a_title_that_is_not_utf8_costs_nothing_not_even_other_videos(tmp_path, film, suffix):
    path = titled(film, tmp_path / f"latin{suffix}", "\xe9t\xe9 \xe0 la mer".encode("latin-1"))
    with open_source(path) as source:
        assert [film.number(frame.pixels) for frame in source] == list(range(20))
    with DecodePool(workers=1) as pool:
        rounds = [dict(row) for row in pool.rounds([{"source": path}], streams=1)]
    assert len(rounds) == 21 and rounds[-1] == {0: None}
    readers = IndexReaders(1)
    try:
        assert len(readers.read(f"file:{path}", 0)[0].pts) == 20
    finally:
        readers.close()


def test_a_duration_that_is_no_time_is_none(tmp_path, film):
    path = film.write(tmp_path / "a.mkv", [film.picture(i) for i in range(20)])
    data = path.read_bytes()
    place = data.index(b"00:00:00.")
    path.write_bytes(data[:place] + b"some time" + data[place + 9 :])
    with open_source(path) as source:
        assert [film.number(frame.pixels) for frame in source] == list(range(20))


def ivf(tmp_path, film):
    """A film of 20 pictures at 10 a second, 12 bytes in front of each, behind a header of 32."""
    return film.write(tmp_path / "a.ivf", [film.picture(i) for i in range(20)], codec="libvpx", rate=10)


@pytest.mark.parametrize("rate", [(10, 0xB8000001), (2_000_000_000, 1)])
def test_a_rate_beyond_reason_is_unknown(tmp_path, film, rate):
    path = ivf(tmp_path, film)
    data = bytearray(path.read_bytes())
    struct.pack_into("<II", data, 16, *rate)
    path.write_bytes(data)
    with open_source(path) as source:
        assert source.fps is None and [film.number(frame.pixels) for frame in source] == list(range(20))


def test_a_picture_that_is_dated_far_behind_the_end_is_an_error_and_not_a_tick_for_each_second_until_then(tmp_path, film):
    path = ivf(tmp_path, film)
    data, place = bytearray(path.read_bytes()), 32
    for _ in range(10):
        place += 12 + struct.unpack_from("<I", data, place)[0]
    data[place + 9] |= 0x10  # of the 64 bits of its time stamp
    path.write_bytes(data)
    shown = []
    with open_source(path, fps=5) as source, pytest.raises(VideoError, match="is dated"):
        for frame in source:
            shown.append(film.number(frame.pixels))
            assert len(shown) < 100
    assert shown[:5] == [0, 2, 4, 6, 8]


def test_a_relative_path_is_still_the_same_file_when_the_working_folder_changes(tmp_path, film, monkeypatch):
    film.write(tmp_path / "a.mp4", [film.picture(i) for i in range(20)])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    file = VideoFile("a.mp4")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [film.number(picture.render()) for picture in file.pictures(0, None)] == list(range(20))


def test_a_process_that_reads_indexes_runs_nothing_of_the_working_folder(tmp_path, film, monkeypatch):
    path = film.write(tmp_path / "a.mp4", [film.picture(i) for i in range(20)])
    (tmp_path / "av.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    readers = IndexReaders(1)
    try:
        assert readers.read(f"file:{path}", 0)[0] is not None
    finally:
        readers.close()
    assert not (tmp_path / "ran").exists()


def test_pictures_of_another_size_than_the_header_says_stay_with_pyav(tmp_path, film, monkeypatch):
    """DALI makes room by the header, and writes beyond it."""
    path = ivf(tmp_path, film)
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 12, 16)
    path.write_bytes(data)
    monkeypatch.setattr("evostreaming.engine.video_dali.installed", lambda: True)
    file = VideoFile(path)
    assert file.stated_size[0] == 16 != file.stored_size[0]
    assert "another size than its header" in refusal(file, torch.device("cpu"))


@pytest.mark.parametrize("reader", [open_source, probe])
def test_a_format_that_nothing_decodes_is_one_error(tmp_path, film, reader):
    path = film.write(tmp_path / "a.mp4", [film.picture(0)])
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match="nothing here decodes the format"):
        reader(path)
