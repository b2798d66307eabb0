"""Many videos decoded by a few threads: the same frames, bounded, none starved, and a broken one costs only itself."""

import gc
import threading

import pytest

from evostreaming.engine.errors import ArgumentError, VideoError
from evostreaming.engine.video import FrameSource, open_source
from evostreaming.engine.video_pool import DecodePool
from evostreaming.engine.video_source import Ready


def test_more_videos_than_threads_deliver_what_each_delivers_alone(tmp_path, film, pool):
    paths = [film.write(tmp_path / f"{k}.mp4", [film.picture(10 * k + i) for i in range(20 + k)], options={"g": "7"}) for k in range(7)]
    sources = [pool.open(path, fps) for path in paths for fps in (None, 2)]
    got = [[(film.number(f.pixels), f.index, f.time) for f in source] for source in sources]
    alone = []
    for path in paths:
        for fps in (None, 2):
            with open_source(path, fps) as source:
                alone.append([(film.number(f.pixels), f.index, f.time) for f in source])
    assert got == alone and all(len(frames) > 1 for frames in got)


def test_each_queue_fills_to_its_size_and_no_further(pool, counted, settles):
    readers = [counted(1000) for _ in range(6)]
    sources = [FrameSource(reader, queue=5, pool=pool) for reader in readers]
    settles(lambda: [reader.pulled for reader in readers], [5] * 6)
    for _ in range(3):
        next(sources[2])
    settles(lambda: [reader.pulled for reader in readers], [5, 5, 8, 5, 5, 5])


def test_waiting_frames_of_all_sources_fit_into_the_memory(counted, settles):
    with DecodePool(workers=2, memory=12 * 48) as pool:  # twelve frames of 4 x 4
        few = [FrameSource(reader, queue=50, pool=pool) for reader in (counted(1000), counted(1000))]
        settles(lambda: [len(source._ready.frames) for source in few], [6, 6])
        with pool._changed:  # no thread looks for work before all are there: the first would get the larger share of a few
            many = [FrameSource(counted(1000), queue=50, pool=pool) for _ in range(28)]
        settles(lambda: [len(source._ready.frames) for source in many], [1] * 28)  # one a source, or none would ever move


def test_frames_that_come_fast_are_handed_over_together_and_slow_ones_at_once(counted, monkeypatch):
    """Each time the consumer is woken, and wants Python's lock from who decodes."""
    handed, plain = [], Ready.put
    monkeypatch.setattr(Ready, "put", lambda ready, *frames: handed.append(len(frames)) or plain(ready, *frames))
    with DecodePool(workers=1) as pool:
        assert len(list(FrameSource(counted(400), queue=400, pool=pool))) == 400
        assert len(handed) < 150
        handed.clear()
        assert len(list(FrameSource(counted(20, pause=0.005), queue=20, pool=pool))) == 20
        assert handed == [1] * 20


def test_an_error_costs_its_own_source_only(pool, counted):
    error = VideoError("broken", "cut off", 0.4)
    broken, whole = FrameSource(counted(5, error), pool=pool), FrameSource(counted(60), pool=pool)
    seen = []
    with pytest.raises(VideoError) as caught:
        for frame in broken:
            seen.append(frame.index)
    assert seen == [0, 1, 2, 3, 4] and caught.value is error
    assert [frame.index for frame in whole] == list(range(60))


def test_closed_and_forgotten_sources_let_go_of_their_files(pool, counted):
    closed, forgotten, after = counted(1000), counted(1000), counted(30)
    source = FrameSource(closed, pool=pool)
    next(source)
    source.close()
    assert closed.stopped.wait(2.0) and next(source, None) is None
    next(FrameSource(forgotten, pool=pool))
    gc.collect()
    assert forgotten.stopped.wait(2.0)
    assert len(list(FrameSource(after, pool=pool))) == 30, "and the pool goes on"


def test_closing_the_pool_ends_its_sources_and_threads(counted):
    pool = DecodePool(workers=3)
    source = FrameSource(counted(1000), pool=pool)
    next(source)
    pool.close()
    assert len(list(source)) <= 8
    assert not any(thread.is_alive() for thread in pool._threads)
    with pytest.raises(ArgumentError, match="the pool is closed"):
        FrameSource(counted(3), pool=pool)
    for arguments in ({"workers": -1}, {"workers": 0}, {"memory": 0}):
        with pytest.raises(ArgumentError, match=next(iter(arguments))):
            DecodePool(**arguments)


def test_a_decoder_that_does_not_come_back_cannot_hold_up_the_end(counted, settles):
    gate, held = threading.Event(), counted(3)
    held.pictures = lambda *_: (gate.wait(10) and None for _ in range(1))
    pool = DecodePool(workers=1)
    source = FrameSource(held, pool=pool)
    settles(lambda: [job.busy for job in pool._jobs], [True])
    pool.close()
    assert next(source, None) is None and pool._threads[0].is_alive()
    gate.set()
    pool._threads[0].join(5)
    assert not pool._threads[0].is_alive() and not pool._jobs


def test_rounds_run_the_longest_first_and_fill_the_place_of_one_that_ended(tmp_path, film, pool):
    lengths = [4, 9, 6, 12]
    paths = [film.write(tmp_path / f"{k}.mp4", [film.picture(i) for i in range(n)], rate=10) for k, n in enumerate(lengths)]
    rounds = list(pool.rounds([{"source": path} for path in paths], streams=2))
    assert {number for number, _ in rounds[0]} == {3, 1}
    assert max(len(row) for row in rounds) == 2
    for number, length in enumerate(lengths):
        frames = [(at, frame) for at, row in enumerate(rounds) for n, frame in row if n == number]
        assert [frame.index for _, frame in frames[:-1]] == list(range(length)) and frames[-1][1] is None
        assert [at for at, _ in frames] == list(range(frames[0][0], frames[0][0] + length + 1)), "a frame a round"
    assert len(rounds) <= 10 + 7 + 5


def test_a_broken_video_among_many_is_a_row_of_its_own(tmp_path, film, pool):
    paths = [film.write(tmp_path / f"{k}.mp4", [film.picture(i) for i in range(6)]) for k in range(3)]
    (tmp_path / "empty.mp4").touch()
    requests = [{"source": path, "fps": 10} for path in (paths[0], tmp_path / "empty.mp4", paths[1], tmp_path / "missing.mp4", paths[2])]
    rows = [cell for row in pool.rounds(requests, streams=2) for cell in row]
    errors = {number: str(frame) for number, frame in rows if isinstance(frame, VideoError)}
    assert set(errors) == {1, 3} and "the file is empty" in errors[1] and "no such file" in errors[3]
    assert sorted(number for number, frame in rows if frame is None) == [0, 2, 4]


def test_every_bad_clip_costs_only_its_own_row(tmp_path, film, pool, shared):
    good = film.write(tmp_path / "good.mp4", [film.picture(i) for i in range(60)])
    bad = sorted((shared / "data" / "video" / "bad").iterdir())
    ended, frames = {}, {}
    for row in pool.rounds([{"source": path, "fps": 2} for path in (good, *bad, good)], streams=3):
        for number, frame in row:
            if frame is None or isinstance(frame, VideoError):
                ended[number] = frame
            else:
                frames.setdefault(number, []).append(frame.index)
    assert frames[0] == frames[len(bad) + 1] == [0, 15, 30, 45] and ended[0] is None and ended[len(bad) + 1] is None
    told = {path.name: ended[number] for number, path in enumerate(bad, 1)}
    assert {name for name, error in told.items() if error is None} == {"one_frame.mp4"}
    assert all(name in error.source for name, error in told.items() if error)


def test_rounds_that_are_left_close_what_they_opened(tmp_path, film, pool, settles):
    path = film.write(tmp_path / "a.mp4", [film.picture(i) for i in range(50)])
    rounds = pool.rounds([{"source": path}] * 4, streams=3)
    next(rounds)
    rounds.close()
    settles(lambda: len(pool._jobs), 0)
