"""Real clips: every frame, every size, every tick as an independent reader lists them; every broken file one clear error."""

import bisect
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from evostreaming.engine.errors import VideoError
from evostreaming.engine.video import open_source, probe

CLIPS = Path(os.environ.get("EVOSTREAMING_SHARED") or Path(__file__).parents[2] / ".." / "shared") / "data" / "video"
pytestmark = pytest.mark.skipif(not (CLIPS / "index.json").exists(), reason="the clips are not beside this checkout (../shared/data/video)")
NAMES = [
    "people_one_by_one.mp4",
    "bbb_opening_hevc.mp4",
    "bottles_vfr.mp4",
    "nasa_odd_vp9.webm",
    "people_rotated.mp4",
    "signs_portrait_mpeg4.avi",
    "nasa_two_streams.mp4",
]
LONGEST = 32  # seconds of a clip that a test reads


def listed(name, stream=0):
    """What ffprobe said of a clip, and the exact time of every frame."""
    video = next(clip for clip in json.loads((CLIPS / "index.json").read_text()) if clip["file"] == name)["video"][stream]
    if "pts" in video:
        times = [Fraction(str(pts)) for pts in video["pts"]]
    else:
        times = [i / Fraction(video["r_frame_rate"]) for i in range(video["frames"])]
    if name.endswith(".webm"):  # WebM rounds to milliseconds
        times = [Fraction(int(t * 1000 + Fraction(1, 2)), 1000) for t in times]
    assert float(times[-1]) == pytest.approx(video["last_pts"], abs=1e-6)
    return video, times


@pytest.mark.parametrize("name", NAMES)
def test_every_frame_arrives_once_at_its_time_and_size(name):
    video, times = listed(name)
    with open_source(CLIPS / name) as source:
        assert [source.width, source.height] == video["display_size"]
        assert source.expected == video["frames"]
        frames = [(f.index, f.time, f.pixels.shape, f.pixels.is_contiguous()) for f in source]
    assert [f[0] for f in frames] == list(range(video["frames"]))
    np.testing.assert_allclose([f[1] for f in frames], [float(t) for t in times], atol=1e-6)
    assert {f[2:] for f in frames} == {((video["display_size"][1], video["display_size"][0], 3), True)}


@pytest.mark.parametrize("fps", [0.5, 1, 2, 7])
@pytest.mark.parametrize("name", NAMES)
def test_each_tick_shows_the_last_frame_not_after_it(name, fps):
    _, times = listed(name)
    table, k = [], 0
    while k / Fraction(fps) <= times[-1] and k / Fraction(fps) < LONGEST:
        table.append((bisect.bisect_right(times, k / Fraction(fps)) - 1, float(k / Fraction(fps))))
        k += 1
    with open_source(CLIPS / name, fps, end=LONGEST) as source:
        assert source.fps == fps
        assert [(f.index, f.time) for f in source] == table
        assert source.expected == len(table)


def test_a_second_video_stream_can_be_chosen_and_a_third_is_refused():
    video, _ = listed("nasa_two_streams.mp4", stream=1)
    with open_source(CLIPS / "nasa_two_streams.mp4", stream=1) as source:
        assert [source.width, source.height] == video["display_size"]
        assert sum(1 for _ in source) == video["frames"]
    with pytest.raises(VideoError, match=r"2 video stream\(s\).*number 2"):
        open_source(CLIPS / "nasa_two_streams.mp4", stream=2)


def test_a_portrait_recording_stands_upright():
    with av.open(str(CLIPS / "people_rotated.mp4")) as container:
        stored = [frame.to_ndarray(format="rgb24") for frame, _ in zip(container.decode(video=0), range(3))]
    with open_source(CLIPS / "people_rotated.mp4") as source:
        for raw in stored:  # the clip's notes: turn 90 degrees clockwise
            np.testing.assert_array_equal(next(source).pixels.numpy(), np.rot90(raw, k=-1))


def test_a_start_in_the_middle_gives_the_same_pictures_as_reading_from_the_front():
    with open_source(CLIPS / "bbb_opening_hevc.mp4", 2, end=22) as source:  # HEVC with open GOPs
        front = [f for f in source if f.time >= 19.3]
    with open_source(CLIPS / "bbb_opening_hevc.mp4", 2, start=19.3, end=22) as source:
        late = list(source)
        assert source.expected == len(late) == 5
    for a, b in zip(front, late, strict=True):
        assert (a.index, a.time) == (b.index, b.time)
        np.testing.assert_array_equal(a.pixels.numpy(), b.pixels.numpy())


def test_probe_describes_without_reading_through():
    assert probe(CLIPS / "people_rotated.mp4") == {
        "codec": "h264", "width": 244, "height": 432, "rotation": 90, "fps": 10.0, "duration": 24.0, "frames": 240,
    }  # fmt: skip
    webm = probe(CLIPS / "nasa_odd_vp9.webm")
    assert (webm["codec"], webm["width"], webm["height"], webm["frames"]) == ("vp9", 427, 241, None)
    assert webm["duration"] == pytest.approx(13.013)


@pytest.mark.parametrize(
    "name, reason",
    [
        ("zero_byte.mp4", "the file is empty"),
        ("text_renamed.mp4", "not a video"),
        ("missing_moov.mp4", "index is missing"),
        ("audio_only.mp4", "no video stream in it, only audio"),
    ],
)
def test_a_file_without_pictures_is_one_clear_error(name, reason):
    for read in (open_source, probe):
        with pytest.raises(VideoError, match=reason) as caught:
            read(CLIPS / "bad" / name)
        assert caught.value.source.endswith(name) and caught.value.time is None


def until_error(source):
    frames = []
    with source, pytest.raises(VideoError) as caught:
        for frame in source:
            frames.append(frame)
    assert next(source, None) is None, "the error is told once"
    return frames, caught.value


def test_a_cut_file_gives_all_its_frames_and_then_says_where_it_ends():
    frames, error = until_error(open_source(CLIPS / "bad" / "truncated.mp4"))
    assert [f.index for f in frames] == list(range(270))
    assert error.time == frames[-1].time == pytest.approx(269 * 384 / 11456)
    assert "of 16.02 s" in error.reason and "of 478 frames" in error.reason
    assert error.source.endswith("truncated.mp4")


def test_good_frames_on_both_sides_of_a_corrupt_stretch_arrive_and_the_stretch_is_named():
    frames, error = until_error(open_source(CLIPS / "bad" / "corrupted_middle.mp4"))
    indices, times = [f.index for f in frames], [f.time for f in frames]
    assert indices[:189] == list(range(189)), "everything before the damage"
    assert indices[-180:] == list(range(298, 478)), "everything after 10 s"
    assert times == sorted(set(times)), "no picture is shown twice or out of order"
    sound = [(i, t) for i, t in zip(indices, times) if not 6.3 < t < 10]
    np.testing.assert_allclose([t for _, t in sound], [i * 384 / 11456 for i, _ in sound], atol=1e-9)  # frames lost keep their places
    assert "29 of 478 packets" in error.reason and "from 6.37 s to 9.55 s" in error.reason
    assert error.time == times[-1]


def test_a_tick_inside_a_corrupt_stretch_shows_the_last_picture_before_it():
    frames, _ = until_error(open_source(CLIPS / "bad" / "corrupted_middle.mp4", 2))
    assert [f.time for f in frames] == [k / 2 for k in range(32)]
    assert all(f.index * 384 / 11456 <= f.time for f in frames)


def test_damage_outside_the_part_asked_for_is_no_error():
    with open_source(CLIPS / "bad" / "corrupted_middle.mp4", end=5.0) as source:
        assert sum(1 for _ in source) == 150
    with open_source(CLIPS / "bad" / "truncated.mp4", end=8.0) as source:
        assert [f.index for f in source] == list(range(239))


def test_a_clip_of_one_frame_is_fine():
    for fps in (None, 0.5, 30):
        with open_source(CLIPS / "bad" / "one_frame.mp4", fps) as source:
            assert [(f.index, f.time) for f in source] == [(0, 0.0)]
            assert source.expected == 1
