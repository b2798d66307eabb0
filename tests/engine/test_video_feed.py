"""Packets that a plan fetches by jumps are those that it would get by reading everything."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import pytest

from evostreaming.engine import video_feed, video_file
from evostreaming.engine.video import FrameSource
from evostreaming.engine.video_feed import Damaged, planned_packets
from evostreaming.engine.video_file import VideoFile
from evostreaming.engine.video_index import read_index
from evostreaming.engine.video_packets import Tally

CLIPS = Path(os.environ.get("EVOSTREAMING_SHARED") or Path(__file__).parents[2] / ".." / "shared") / "data" / "video"
NAMES = sorted(p for p in os.listdir(CLIPS) if p.endswith(("mp4", "webm", "avi"))) if CLIPS.exists() else []
NEVER = 1 << 30


class Counting:
    """A container that counts the packets read from it; `seek` may be replaced by one that leads elsewhere."""

    def __init__(self, container, lead):
        self._container, self._lead, self.read, self.seeks = container, lead, 0, 0

    def __getattr__(self, name):
        return getattr(self._container, name)

    def seek(self, pts, **options):
        self.seeks += 1
        self._lead(self._container, pts, options)

    def demux(self, video):
        for packet in self._container.demux(video):
            self.read += packet.size > 0
            yield packet


def straight(container, pts, options):
    container.seek(pts, **options)


class Watched(VideoFile):
    """A file whose containers count."""

    lead = staticmethod(straight)

    def __init__(self, *arguments):
        self.opened = []
        super().__init__(*arguments)

    @contextmanager
    def open(self):
        with super().open() as container:
            self.opened.append(Counting(container, self.lead))
            yield self.opened[-1]

    @property
    def read(self):
        return sum(container.read for container in self.opened)

    @property
    def seeks(self):
        return sum(container.seeks for container in self.opened)


def fetched(path, rate, lead=straight, start=Fraction(0)):
    """([(place, time, flags and bytes of a packet)], the file) of a plan. Times of decoding are guessed by some containers."""
    file = Watched(path)
    plan = file.plan(start, None, rate)
    file.opened, file.lead = [], lead
    with file.open() as container:
        packets = [(i, p.pts, p.is_keyframe, p.is_discard, bytes(p)) for i, p in planned_packets(file, container, plan)]
    return packets, file


def same_by_jumps(path, monkeypatch, far=1, **options):
    seeks = 0
    for rate, start in ((Fraction(1, 2), 0), (Fraction(1, 4), 0), (Fraction(1), 3), (None, 2)):
        monkeypatch.setattr(video_feed, "FAR", NEVER)
        whole, reading = fetched(path, rate, start=Fraction(start), **options)
        monkeypatch.setattr(video_feed, "FAR", far)
        found, jumping = fetched(path, rate, start=Fraction(start), **options)
        assert found == whole and (jumping.decoded, jumping.skipped) == (reading.decoded, reading.skipped)
        assert not reading.seeks and reading.decoded + reading.skipped == reading.read == whole[-1][0] + 1
        seeks += jumping.seeks
    return seeks


@pytest.mark.skipif(not NAMES, reason="the clips are not beside this checkout (../shared/data/video)")
@pytest.mark.parametrize("name", NAMES)
def test_jumps_in_real_clips_give_the_packets_of_a_full_reading(name, monkeypatch):
    assert same_by_jumps(CLIPS / name, monkeypatch) >= (name != "nasa_two_streams.mp4")


def test_jumps_in_every_container_give_the_packets_of_a_full_reading(tmp_path, film, encoding, monkeypatch):
    codec, suffix, options = encoding
    path = film.write(tmp_path / f"clip.{suffix}", [film.picture(i % 256) for i in range(300)], codec=codec, options=options)
    assert same_by_jumps(path, monkeypatch) or suffix == "webm"  # which has one key frame


def cut_in(path):
    """`path` again, as a file with an edit list that shows it from its 20th picture on, in the middle of a group."""
    target = path.with_name("cut.mp4")
    with av.open(str(path)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        packets = [packet for packet in old.demux(video=0) if packet.size]
        shift = sorted(packet.pts for packet in packets)[20]
        for packet in packets:
            packet.stream, packet.pts, packet.dts = stream, packet.pts - shift, packet.dts - shift
            new.mux(packet)
    return target


def test_jumps_in_a_file_with_an_edit_list_and_uneven_times(tmp_path, film, monkeypatch):
    times = [3 * i + (i % 5 == 2) + 40 * (i > 150) for i in range(240)]
    pictures = [film.picture(i) for i in range(240)]
    path = film.write(tmp_path / "clip.mp4", pictures, pts=times, time_base=Fraction(1, 90), options={"g": "24", "bf": "3"})
    assert same_by_jumps(path, monkeypatch)
    path = cut_in(path)
    with av.open(str(path)) as container:
        assert any(packet.is_discard for packet in container.demux(video=0)), "the file has pictures that are not shown"
    assert same_by_jumps(path, monkeypatch)


@pytest.mark.skipif(not NAMES, reason="the clips are not beside this checkout (../shared/data/video)")
@pytest.mark.parametrize("name", NAMES)
def test_the_index_counts_what_a_reading_packet_by_packet_counts(name):
    file, at_once, one_by_one = VideoFile(CLIPS / name), Tally(), Tally()
    with file.open() as container:
        index = read_index(container, file.video_of(container), at_once)
    with file.open() as container:
        packets = [packet for packet in one_by_one.watch(container, file.video_of(container)) if packet]
    for number in ("packets", "reached", "longest_step", "broken"):
        assert getattr(at_once, number) == getattr(one_by_one, number), number
    assert index[:2] == ([packet.pts for packet in packets], [packet.is_keyframe for packet in packets])


def test_files_are_indexed_one_after_the_other(tmp_path, film, monkeypatch):
    path, running, most = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(8)]), [], []

    def slowly(*arguments):
        running.append(1)
        most.append(len(running))
        time.sleep(0.01)
        running.pop()
        return read_index(*arguments)

    monkeypatch.setattr(video_file, "read_index", slowly)
    with ThreadPoolExecutor(4) as threads:
        plans = list(threads.map(lambda _: VideoFile(path).plan(Fraction(0), None, None), range(8)))
    assert most == [1] * 8 and all(len(plan.shown) == 8 for plan in plans)


@pytest.fixture
def long(tmp_path, film):
    """A file of 600 pictures in 12 groups."""
    options = {"g": "50", "keyint_min": "50", "sc_threshold": "0"}
    return film.write(tmp_path / "long.mp4", [film.picture(i % 256) for i in range(600)], options=options, rate=25)


def test_a_sparse_plan_reads_a_few_packets_of_the_file(long):
    packets, file = fetched(long, Fraction(1, 2))
    assert [place for place, *_ in packets] == list(range(0, 600, 50))
    assert file.read == 12 and file.seeks == 11
    assert (file.decoded, file.skipped) == (12, 539)


def fails(container, pts, options):
    raise av.PermissionError(1, "this one cannot seek")


def test_a_jump_that_leads_to_the_key_frame_before_reads_on_from_there(long):
    wanted, _ = fetched(long, Fraction(1, 4))
    found, file = fetched(long, Fraction(1, 4), lead=lambda container, pts, options: container.seek(pts - 20_000, **options))
    assert found == wanted and [place for place, *_ in found] == list(range(0, 600, 100))
    assert (file.read, file.seeks) == (1 + 5 * 51, 5)


@pytest.mark.parametrize("lead, read", [
    (lambda container, pts, options: container.seek(0, **options), 1 + 551),
    (lambda container, pts, options: container.seek(pts + 200_000, **options), 1 + 1 + 551),
    (lambda container, pts, options: container.seek(pts + 6_000, **(options | {"any_frame": True})), 1 + 1 + 551),
    (fails, 1 + 551),
])  # fmt: skip
def test_a_jump_that_leads_elsewhere_is_made_good_and_none_is_tried_again(long, film, lead, read):
    wanted, _ = fetched(long, Fraction(1, 2))
    found, file = fetched(long, Fraction(1, 2), lead=lead)
    assert found == wanted and (file.read, file.seeks) == (read, 1)
    assert (file.decoded, file.skipped) == (12, 539)
    file = Watched(long)
    file.lead = lead
    with FrameSource(file, 0.5) as source:
        assert [film.number(f.pixels) for f in source] == [i % 256 for i in range(0, 600, 50)]
    assert (source.decoded, source.skipped) == (12, 539)


@pytest.mark.parametrize("place", [50, 300])
def test_packets_that_are_not_as_the_index_says_are_found_out(long, place):
    file = VideoFile(long)
    plan = file.plan(Fraction(0), None, Fraction(1, 2))
    plan.index.pts[place] += 1
    with file.open() as container, pytest.raises(Damaged):
        list(planned_packets(file, container, plan))
    assert file.decoded == place // 50
