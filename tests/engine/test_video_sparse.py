"""Sampling decodes only what it needs, and no picture changes by it."""

import bisect
import os
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from evostreaming.engine.errors import VideoError
from evostreaming.engine.video import FrameSource, open_source
from evostreaming.engine.video_file import VideoFile
from evostreaming.engine.video_plan import PacketIndex, make_plan

CLIPS = Path(os.environ.get("EVOSTREAMING_SHARED") or Path(__file__).parents[2] / ".." / "shared") / "data" / "video"
BASE = Fraction(1, 10)


def index_of(pts, keys, leaves=(), restarts=True):
    places = range(len(pts))
    is_key = [i in keys for i in places]
    return PacketIndex(list(pts), is_key, [i in leaves for i in places], [restarts and key for key in is_key], [False for _ in places])


def fed(plan):
    return [i for i, step in enumerate(plan.feed) if step]


def test_only_the_stretch_from_a_key_frame_to_its_last_wanted_picture_is_decoded():
    plan = make_plan(index_of(range(60), {0, 20, 40}), 0, BASE, Fraction(1, 2), Fraction(0), None)
    assert list(plan.shown.items()) == [(0, 0), (20, 20), (40, 40)]
    assert fed(plan) == [0, 20, 40] and plan.jumps == {20, 40} and plan.last == 59
    plan = make_plan(index_of(range(60), {0, 30}), 0, BASE, Fraction(1, 2), Fraction(0), None)
    assert fed(plan) == [*range(21), *range(30, 41)] and plan.jumps == {30}


def test_a_jump_that_saves_less_than_it_costs_is_not_taken():
    plan = make_plan(index_of(range(60), {0, 25}, restarts=False), 0, BASE, Fraction(1, 2), Fraction(0), None)
    assert fed(plan) == list(range(41)) and not plan.jumps
    plan = make_plan(index_of(range(60), {0, 25}), 0, BASE, Fraction(1, 2), Fraction(0), None)
    assert fed(plan) == [*range(21), *range(25, 41)] and plan.jumps == {25}, "where the decoder restarts by itself, one costs nothing"


def test_pictures_that_nothing_refers_to_are_passed_over_unless_they_are_wanted():
    plan = make_plan(index_of(range(30), {0}, leaves=set(range(1, 30, 2)) | {20}), 0, BASE, Fraction(1, 2), Fraction(0), None)
    assert fed(plan) == [*range(0, 20, 2), 20]


def test_a_picture_shown_before_its_key_frame_needs_the_stretch_in_front_of_it():
    pts = [*range(18), 20, 18, 19, *range(21, 40)]  # 18 and 19 stand behind the key frame 20 and are shown before it
    rate = Fraction(10, 19)  # ticks at 0, 19 and 38
    plan = make_plan(index_of(pts, {0, 18}), 0, BASE, rate, Fraction(0), None)
    assert list(plan.shown) == [0, 19, 38] and fed(plan) == list(range(39)) and not plan.jumps
    plan = make_plan(index_of(pts, {0, 18}), 0, BASE, Fraction(1, 2), Fraction(2), None)
    assert list(plan.shown) == [20] and fed(plan) == [18] and plan.jumps == {18}, "and is passed over where nobody wants it"


@pytest.mark.parametrize("index", [
    index_of([0, 1, 1, 2], {0}), index_of([0, 1, 2, 3], {1}), index_of([0, 1, 9, 3, 4], {0, 3}), index_of([], set()),
])  # fmt: skip
def test_times_that_cannot_be_planned_with_are_refused(index):
    assert not index.sound()


def sampled(path, fps, **options):
    with open_source(path, fps, decoder="pyav", **options) as source:
        frames = list(source)
    return frames, source


@pytest.mark.parametrize("codec, suffix, options, most", [
    ("libx264", "mp4", {"bf": "3", "g": "60"}, 60),
    ("libx264", "mkv", {"bf": "3", "g": "12", "x264-params": "open-gop=1:scenecut=0"}, 60),
    ("libx264", "ts", {"bf": "2", "g": "30"}, 90),
    ("libx264", "mp4", {"g": "30", "x264-params": "intra-refresh=1"}, 120),
    ("libx265", "mp4", {"x265-params": "bframes=4:keyint=12:open-gop=1:log-level=none:scenecut=0"}, 60),
    ("libx265", "mp4", {"x265-params": "bframes=4:keyint=30:min-keyint=30:open-gop=0:log-level=none:scenecut=0"}, 4),
    ("libx264", "mp4", {"bf": "3", "g": "30", "x264-params": "scenecut=0:keyint=30:min-keyint=30"}, 4),
    ("libx265", "mp4", {"x265-params": "temporal-layers=3:bframes=7:keyint=30:log-level=none:scenecut=0"}, 110),
    ("libx264", "mp4", {"bf": "3", "g": "30", "x264-params": "interlaced=1:slices=2"}, 70),
    ("mpeg2video", "ts", {"bf": "2", "g": "12"}, 60),
    ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8", "g": "30"}, 12),
    ("mpeg4", "mp4", {"g": "15", "bf": "2"}, 12),
])  # fmt: skip
def test_every_codec_shows_the_same_picture_at_a_tick_with_less_decoding(tmp_path, film, codec, suffix, options, most):
    path = film.write(tmp_path / f"clip.{suffix}", [film.picture(i) for i in range(120)], codec=codec, options=options)
    for fps, step in ((1, 30), (0.5, 60)):
        frames, source = sampled(path, fps)
        assert [(film.number(f.pixels), f.index, f.time) for f in frames] == [(k, k, k / 30) for k in range(0, 120, step)]
    assert source.decoded <= most


def test_ten_seconds_of_two_second_groups_cost_a_picture_a_group(tmp_path, film):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i % 256) for i in range(300)], options={"g": "60", "x264-params": "scenecut=0"})
    frames, source = sampled(path, 0.5)
    assert [film.number(f.pixels) for f in frames] == [0, 60, 120, 180, 240]
    assert source.decoded == 5 and source.decoded + source.skipped <= 300


def test_sampling_across_a_change_of_size(film, changing):
    frames, _ = sampled(changing, 5)
    assert [film.number(f.pixels) for f in frames] == [0, 5, 10, 15]
    assert [tuple(f.pixels.shape[:2]) for f in frames] == [(48, 64)] * 2 + [(80, 32)] * 2


def test_a_rate_near_that_of_the_video_reads_it_through(tmp_path, film):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(60)], options={"g": "10"})
    frames, source = sampled(path, 20)
    assert (len(frames), source.decoded, source.skipped) == (40, 60, 0)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4", "libvpx-vp9"])
def test_a_key_frame_that_is_none_is_found_out(tmp_path, film, codec, monkeypatch):
    options = {"bf": "0", "g": "250"} if codec != "libvpx-vp9" else {"g": "250", "deadline": "realtime", "cpu-used": "8"}
    path = film.write(tmp_path / "clip.mkv", [film.picture(i) for i in range(120)], codec=codec, options=options)
    reader = VideoFile(path)
    index = reader.plan(Fraction(0), None, None).index
    lying = make_plan(index._replace(key=[i % 30 == 0 for i in range(120)]), reader.origin, reader.base, Fraction(1), Fraction(0), None)
    assert lying.jumps == {30, 60, 90}
    monkeypatch.setattr(reader, "plan", lambda *_: lying)
    with FrameSource(reader, 1) as source:
        assert [film.number(f.pixels) for f in source] == [0, 30, 60, 90]


@pytest.mark.skipif(not CLIPS.exists(), reason="the clips are not beside this checkout (../shared/data/video)")
def test_damage_on_the_way_is_met_as_if_everything_had_been_read(monkeypatch):
    def read():
        frames = []
        with open_source(CLIPS / "bad" / "corrupted_middle.mp4", 0.5) as source, pytest.raises(VideoError) as caught:
            for frame in source:
                frames.append(frame)
        return frames, caught.value.time

    (sparse, reached), _ = read(), monkeypatch.setattr(VideoFile, "plan", lambda *_: None)
    full, end = read()
    assert len(sparse) == 8 and reached == end
    for a, b in zip(sparse, full, strict=True):
        assert a[1:] == b[1:] and (a.time > 6.3 or torch.equal(a.pixels, b.pixels)), "behind it, damage spreads as it likes"


def test_a_file_that_changes_between_index_and_decoding_is_read_as_it_is(tmp_path, film, monkeypatch):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(120)], options={"g": "30", "bf": "0"})
    reader = VideoFile(path)
    plan = reader.plan(Fraction(0), None, Fraction(1))
    monkeypatch.setattr(reader, "plan", lambda *_: plan._replace(shown={0: 0, 5: 5}))  # the picture at 5 never comes
    with FrameSource(reader, 1) as source:
        assert [film.number(f.pixels) for f in source] == [0, 30, 60, 90]


@pytest.mark.skipif(not CLIPS.exists(), reason="the clips are not beside this checkout (../shared/data/video)")
@pytest.mark.parametrize("name", sorted(p for p in os.listdir(CLIPS) if p.endswith(("mp4", "webm", "avi"))) if CLIPS.exists() else [])
def test_real_clips_show_the_pictures_of_a_full_reading(name, monkeypatch):
    wanted = {fps: sampled(CLIPS / name, fps, end=20) for fps in (0.5, 2)}
    monkeypatch.setattr(VideoFile, "plan", lambda *_: None)
    frames, full = sampled(CLIPS / name, None, end=20)
    times = [frame.time for frame in frames]
    for fps, (sparse, source) in wanted.items():
        assert source.decoded < full.decoded or (fps == 2 and name == "nasa_odd_vp9.webm")
        for k, frame in enumerate(sparse):
            shown = frames[bisect.bisect_right(times, k / fps) - 1]
            assert (frame.time, frame.index) == (k / fps, shown.index)
            assert torch.equal(frame.pixels, shown.pixels)
    assert len(wanted[2][0]) == int(min(times[-1], 19.9) * 2) + 1
