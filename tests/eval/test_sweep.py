"""Sweeps on the built-in model: forked traces are those of dedicated runs, and bad videos cost their own episodes only."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import evostreaming
from evostreaming import Engine, Gate
from evostreaming.engine.errors import VideoError
from evostreaming.engine.video import open_source
from evostreaming.eval import sweep_lanes
from evostreaming.eval.baselines import FRAMES, poll_bundle
from evostreaming.eval.discretize import grid
from evostreaming.eval.engine_session import EngineSession, open_stream
from evostreaming.eval.episodes import Episode, Query, Target
from evostreaming.eval.stream import sample, stream
from evostreaming.eval.sweep_frames import open_video
from evostreaming.eval.sweep_lanes import watch_bundle
from evostreaming.eval.sweep_plan import plan_bundles, plan_watches

ASSETS = Path(evostreaming.__file__).parent / "assets"
CLIPS = {name: str(ASSETS / "clips" / name) for name in ("demo.mp4", "wait.mp4")}


def episode(name, video, asked, t_end, regime="FAR", fps=1.0):
    queries = tuple(Query(f"q{i}", t, text, "text") for i, (t, text) in enumerate(asked))
    return Episode(name, "clips", regime, regime, video, 0.0, t_end, fps, queries, (Target("g", "q0", t_end, (0, t_end), "cut"),))


EPISODES = [
    episode("now", "demo.mp4", [(9.0, "What is the cook doing now?")], 13.0, "RT"),
    episode("same moment", "demo.mp4", [(9.5, "Which step comes next?")], 13.0, "RT"),
    episode("all along", "demo.mp4", [(0.0, "What is the cook doing now?")], 40.0),
    episode("two queries", "demo.mp4", [(3.0, "What is the cook doing now?"), (20.0, "Is there a red star?")], 38.0),
    episode("wait", "wait.mp4", [(5.0, "Tell me when the yellow cross turns blue.")], 41.0),
    episode("late", "wait.mp4", [(37.0, "What color is the circle?")], 41.0, "RT"),
]


@pytest.fixture(scope="module")
def usual_reply():
    """What the built-in model says most often when it is to wait: as its word for silence, it makes the gate decide both ways."""
    engine, query = Engine.from_pretrained("tiny", device="cpu", max_streams=1), EPISODES[4].queries[0].text
    with open_source(CLIPS["wait.mp4"], fps=0.5) as source, engine.open(query=query, system="You watch.") as stream:
        return Counter(engine.step(f.pixels, stream, time=f.time).text for f in source).most_common(1)[0][0]


@pytest.fixture(scope="module", params=["full", "replies"])
def engine(request, usual_reply, tmp_path_factory):
    """The built-in model with a word for silence that it often says, and a window that is soon full."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(ASSETS / "tiny", folder)
    (folder / "streaming.json").write_text(json.dumps({"silence": usual_reply, "history": request.param, "system": "You watch."}))
    return Engine.from_pretrained(folder, device="cpu", max_streams=8, max_tokens=640, max_reply=12)


def run(engine, episodes, open_frames=open_video, streams=8, paths=CLIPS):
    """`{episode_id: (turns, err)}`, and the turns that were paid for."""
    ended, paid = {}, 0
    for bundle in plan_bundles(plan_watches(episodes, paths), streams):
        for turns, done in watch_bundle(engine, bundle, open_frames):
            paid += turns
            ended |= {name: (tuple(rows), err) for name, rows, err in done}
    return ended, paid


def dedicated(engine, ep):
    with open_source(CLIPS[ep.video], fps=ep.fps) as source:
        pixels = sample(((frame.pixels, frame.time) for frame in source), grid(ep))
        return stream(ep, pixels, EngineSession(engine), "r").turns


def said(turns):
    """Everything but what depends on the machine's speed and, in the last digit, on the size of a batch."""
    return [turn._replace(lat_s=None, ttft_s=None, p_speak=None) for turn in turns]


def test_forked_traces_equal_dedicated_runs(engine, monkeypatch):
    alone = {ep.episode_id: dedicated(engine, ep) for ep in EPISODES}
    silent = sum(t.silent for turns in alone.values() for t in turns)
    assert 10 < silent < sum(map(len, alone.values())) - 10, "all silent or none proves little"
    for limit in (sweep_lanes.SCAN_BELOW, 100):
        calls = {"scanned": 0, "batch": 0, "open": 0}
        with monkeypatch.context() as patch:
            watch_calls(patch, engine, calls)
            patch.setattr(sweep_lanes, "SCAN_BELOW", limit)
            ended, paid = run(engine, EPISODES, lambda watch: (calls.update(open=calls["open"] + 1), open_video(watch))[1])  # noqa: B023
        assert calls["open"] == 2, "each video is to be read once"
        assert calls["batch"] > 2 and (limit == 4 or calls["scanned"] > 15), "nothing was batched, or nothing was scanned"
        assert paid < sum(grid(ep).n for ep in EPISODES)
        for ep in EPISODES:
            turns, err = ended[ep.episode_id]
            assert err is None and said(turns) == said(alone[ep.episode_id])
            assert [t.p_speak for t in turns] == pytest.approx([t.p_speak for t in alone[ep.episode_id]], abs=2e-3)
    assert not engine._streams, "a stream was left open"


def test_a_scan_stops_at_every_fork_and_query(engine, monkeypatch):
    # Every stream speaks once and is then held silent for long: the trunk, too, scans as far as it may.
    monkeypatch.setattr(engine, "gate", Gate(threshold=0.0, refractory=12))
    monkeypatch.setattr(sweep_lanes, "SCAN_BELOW", 100)
    ended, _ = run(engine, EPISODES)
    for ep in (EPISODES[1], EPISODES[3], EPISODES[5]):
        assert said(ended[ep.episode_id][0]) == said(dedicated(engine, ep))


def watch_calls(patch, engine, calls):
    scan, step = engine.scan, engine.step

    def scanning(frames, stream, *, times):
        calls["scanned"] += len(frames)
        return scan(frames, stream, times=times)

    def stepping(frames, **how):
        calls["batch"] = max(calls["batch"], len(frames))
        return step(frames, **how)

    patch.setattr(engine, "scan", scanning)
    patch.setattr(engine, "step", stepping)


def test_a_watch_that_is_too_wide_is_split_and_says_the_same(engine):
    wide, _ = run(engine, EPISODES)
    narrow, _ = run(engine, EPISODES, streams=2)
    assert {name: said(turns) for name, (turns, _) in narrow.items()} == {name: said(turns) for name, (turns, _) in wide.items()}


class Breaks:
    """Delivers `frames` and then fails, or ends where `error` is None."""

    def __init__(self, frames, error):
        self.frames, self.error, self.source = frames, error, "clip"

    def __iter__(self):
        yield from self.frames
        if self.error:
            raise self.error

    def close(self):
        pass


def breaking(at, error):
    """`open_frames` for clips that break (or end) after turn `at`."""

    def opened(watch):
        with open_source(watch.path, fps=watch.fps, end=at + 0.5) as source:
            return Breaks(list(source), error)

    return opened


def test_a_video_that_breaks_costs_only_the_episodes_that_need_the_rest(engine):
    whole, _ = run(engine, EPISODES)
    error = VideoError(CLIPS["demo.mp4"], "the stream is damaged", 13.0)
    ended, _ = run(engine, EPISODES[:4], breaking(13, error))
    for name in ("now", "same moment"):
        assert ended[name][1] is None and said(ended[name][0]) == said(whole[name][0])
    for name in ("all along", "two queries"):
        assert ended[name] == ((), "VideoError: demo.mp4: the stream is damaged (read up to 13.00 s)")
    assert not engine._streams


def test_a_file_that_is_no_video_is_a_row_and_the_others_run(engine, tmp_path):
    (tmp_path / "noise.mp4").write_bytes(b"this is no film" * 100)
    bad = episode("bad", "noise.mp4", [(3.0, "?")], 9.0)
    ended, _ = run(engine, [bad, EPISODES[0]], paths={**CLIPS, "noise.mp4": str(tmp_path / "noise.mp4")})
    assert ended["bad"][0] == () and ended["bad"][1].startswith("VideoError: noise.mp4: ") and ended["now"][1] is None


def test_the_last_frame_stays_after_the_end_but_not_until_a_query_much_later(engine):
    ended, _ = run(engine, [EPISODES[0], EPISODES[3]], breaking(10, None))
    assert ended["now"][1] is None and len(ended["now"][0]) == 14
    assert "ends long before the query at 20 s" in ended["two queries"][1]


def test_a_query_that_does_not_fit_costs_its_turn(engine):
    long = episode("long", "demo.mp4", [(4.0, "What is the cook doing now? " * 200)], 8.0)
    ended, _ = run(engine, [long, EPISODES[0]])
    turns, err = ended["long"]
    assert err is None and turns[4].err.startswith("TextTooLong: ") and turns[4].silent and all(t.err is None for t in turns[5:])
    assert all(turn.err is None for turn in ended["now"][0])


def test_what_no_error_of_ours_explains_stops_the_sweep(engine, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(engine, "step", fails)
    with pytest.raises(RuntimeError, match="the device is gone"):
        run(engine, EPISODES[:1])
    assert not engine._streams


def test_simplestream_sees_the_last_frames_and_nothing_else(engine):
    far, now = EPISODES[4], EPISODES[0]
    ended = {}
    for watch in plan_watches([far, now], CLIPS):
        for _, done in poll_bundle(engine, [watch], 3):
            ended |= {name: (rows, err) for name, rows, err in done}
    rows, err = ended["wait"]
    assert err is None and len(rows) == grid(far).n and all(t.silent for t in rows[:5])
    with open_source(CLIPS["wait.mp4"], fps=1.0) as source:
        frames = [frame.pixels for frame in source]
    for k in (5, 20, 41):
        with open_stream(engine) as fresh:
            for before in range(k + 1 - FRAMES, k):
                engine.step(frames[before], fresh, time=float(before), force=False)
            fresh.ask(far.queries[0].text)
            step = engine.step(frames[k], fresh, time=float(k))
        assert rows[k].raw == (step.text if step.speak else "</silence>")
        assert rows[k].p_speak == pytest.approx(step.probability, abs=2e-3)
    assert [t.k for t in ended["now"][0] if t.n_tok] == [9], "a question about now is put once"
    assert not engine._streams


def test_an_episode_without_any_frame_is_a_row(engine):
    beyond = replace(EPISODES[0], t_start=100.0, t_end=104.0, queries=(replace(EPISODES[0].queries[0], t_q=102.0),))
    ended, _ = run(engine, [beyond, EPISODES[1]])
    assert ended["now"][0] == () and ended["now"][1].startswith("VideoError: demo.mp4: ") and ended["same moment"][1] is None


@pytest.mark.parametrize("limit", [sweep_lanes.SCAN_BELOW, 100], ids=["batches", "scans"])
def test_a_frame_that_is_still_to_come_changes_nothing_that_was_done(engine, monkeypatch, limit):
    """The canary of RSE-1.0 (12.8): from the next frame on, the video is another one."""
    monkeypatch.setattr(sweep_lanes, "SCAN_BELOW", limit)
    (plain, _), k = run(engine, EPISODES[3:4])[0]["two queries"], 12

    def with_canary(watch):
        with open_source(watch.path, fps=watch.fps) as source, open_source(CLIPS["wait.mp4"], fps=watch.fps) as other:
            return Breaks([b if a.time > k + 0.5 else a for a, b in zip(source, other)], None)

    seen, err = run(engine, EPISODES[3:4], with_canary)[0]["two queries"]
    assert err is None and said(seen[: k + 1]) == said(plain[: k + 1])
    shares = lambda turns: [turn.p_speak for turn in turns]  # noqa: E731
    assert shares(seen[: k + 1]) == pytest.approx(shares(plain[: k + 1]), abs=2e-3)
    assert said(seen) != said(plain) or shares(seen) != pytest.approx(shares(plain), abs=2e-3), "a canary that nobody sees proves little"
