"""Many videos decoded by a few threads: the same frames, bounded, none starved, and a broken one costs only itself."""

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from evostreaming.engine import video_pool
from evostreaming.engine.errors import ArgumentError, VideoError
from evostreaming.engine.video import FrameSource, open_source
from evostreaming.engine.video_pool import DecodePool


def settles(reading, expected, seconds=20.0):
    """Wait until `reading()` is what is expected, and see that it stays so."""
    deadline = time.monotonic() + seconds
    while reading() != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.15)
    assert reading() == expected


@pytest.fixture
def pool():
    with DecodePool(workers=2) as pool:
        yield pool


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


def test_videos_share_the_cores_evenly_however_near_to_each_other_they_are_opened(tmp_path, film, monkeypatch):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(60)])
    together, plain = threading.Barrier(3, timeout=20), video_pool.open_source

    def slowly(*arguments, **options):
        together.wait()  # all are on their way before the first is there
        return plain(*arguments, **options)

    with DecodePool(workers=6) as pool:
        with pool.open(path) as alone:
            assert [film.number(f.pixels) for f in alone] == list(range(60)) and alone._reader._threads == 12, "two threads a core"
        settles(lambda: len(pool._jobs), 0)
        monkeypatch.setattr(video_pool, "open_source", slowly)
        with ThreadPoolExecutor(3) as openers:
            sources = list(openers.map(pool.open, [path] * 3))
        for source in sources:
            assert [film.number(f.pixels) for f in source] == list(range(60)) and source._reader._threads == 4


def test_each_queue_fills_to_its_size_and_no_further(pool, counted):
    readers = [counted(1000) for _ in range(6)]
    sources = [FrameSource(reader, queue=5, pool=pool) for reader in readers]
    settles(lambda: [reader.pulled for reader in readers], [5] * 6)
    for _ in range(3):
        next(sources[2])
    settles(lambda: [reader.pulled for reader in readers], [5, 5, 8, 5, 5, 5])


def test_waiting_frames_of_all_sources_fit_into_the_memory(counted):
    with DecodePool(workers=2, memory=12 * 48) as pool:  # twelve frames of 4 x 4
        few = [FrameSource(reader, queue=50, pool=pool) for reader in (counted(1000), counted(1000))]
        settles(lambda: [len(source._ready.frames) for source in few], [6, 6])
        with pool._changed:  # no thread looks for work before all are there: the first would get the larger share of a few
            many = [FrameSource(counted(1000), queue=50, pool=pool) for _ in range(28)]
        settles(lambda: [len(source._ready.frames) for source in many], [1] * 28)  # one a source, or none would ever move


def test_the_source_with_the_fewest_frames_waiting_is_next_then_the_one_with_most_to_come(counted):
    gate = threading.Event()
    held = counted(3)
    held.pictures = lambda *_: (gate.wait(10) and None for _ in range(1))  # keeps the only thread busy
    with DecodePool(workers=1) as pool:
        first = FrameSource(held, pool=pool)  # by a name: one that is forgotten is let go of
        settles(lambda: [job.busy for job in pool._jobs], [True])
        waiting = {}
        for name, frames, length in (("full", 8, 900), ("some", 3, 900), ("short", 1, 30), ("long", 1, 600)):
            source = waiting[name] = FrameSource(counted(length), queue=8, pool=pool)
            source._ready.frames.extend([None] * frames)
        order = []
        for _ in range(3):
            job = pool._neediest()
            order.append(next(name for name, source in waiting.items() if source._ready is job.ready))
            job.busy = True
        assert order == ["long", "short", "some"] and pool._neediest() is None, "a full one is left alone"
        gate.set()
        first.close()


def test_sources_that_are_read_come_before_those_prepared_ahead_which_leave_half_of_the_threads(counted):
    gate = threading.Event()
    held = [counted(3) for _ in range(4)]
    for reader in held:
        reader.pictures = lambda *_: (gate.wait(10) and None for _ in range(1))
    with DecodePool(workers=4) as pool:
        busy = [FrameSource(reader, pool=pool) for reader in held]  # all four threads
        settles(lambda: [job.busy for job in pool._jobs], [True] * 4)
        ahead = [FrameSource(counted(900), queue=8, pool=pool) for _ in range(2)]
        assert pool._neediest().ready is ahead[0]._ready, "while nobody reads anything, all threads prepare"
        read = FrameSource(counted(30), queue=8, pool=pool)
        read._ready.frames.extend([None] * 7)
        next(read)
        job = pool._neediest()
        assert job.ready is read._ready, "fuller than the others and nearer to its end, but somebody reads it"
        job.busy = True
        assert pool._neediest() is None, "four threads are busy for sources that nobody reads"
        for source in busy[:3]:
            source._ready.asked = True
        assert pool._neediest().ready is ahead[0]._ready
        job.busy = False
        gate.set()
        for source in busy:
            source.close()


def test_who_asks_first_is_served_while_sources_ahead_of_their_readers_are_slow(counted):
    """Half of the threads are theirs: a source that was held back for it goes on as soon as somebody reads it."""
    gate, held = threading.Event(), [counted(3) for _ in range(2)]
    for reader in held:
        reader.pictures = lambda *_: (gate.wait(30) and None for _ in range(1))
    with DecodePool(workers=4) as pool:
        read = FrameSource(counted(1000), queue=2, pool=pool)
        next(read)
        settles(lambda: len(read._ready.frames), 2)
        ahead = [FrameSource(reader, pool=pool) for reader in held]
        settles(lambda: sum(job.busy for job in pool._jobs), 2)
        late, got = FrameSource(counted(5), pool=pool), []
        settles(lambda: len(late._ready.frames), 0)
        thread = threading.Thread(target=lambda: got.append(next(late).index), daemon=True)
        thread.start()
        thread.join(15)
        assert got == [0] and not gate.is_set()
        gate.set()
        for source in ahead:
            source.close()


def test_a_source_that_was_closed_before_anybody_read_it_is_let_go_of_next(counted):
    with DecodePool(workers=1) as pool:
        gate, held = threading.Event(), counted(3)
        held.pictures = lambda *_: (gate.wait(30) and None for _ in range(1))
        first = FrameSource(held, pool=pool)
        settles(lambda: [job.busy for job in pool._jobs], [True])
        read, forgotten = (FrameSource(counted(900), queue=8, pool=pool) for _ in range(2))
        read._ready.frames.extend([None] * 2)
        next(read)
        forgotten._ready.discard()
        assert pool._neediest().ready is forgotten._ready
        gate.set()
        first.close()


def test_idle_threads_sleep_while_a_source_is_read(counted, monkeypatch):
    """Each that looks for work takes Python's lock from those who have some."""
    looks, plain = [], DecodePool._neediest
    monkeypatch.setattr(DecodePool, "_neediest", lambda pool: looks.append(1) or plain(pool))
    with DecodePool(workers=8) as pool:
        source = FrameSource(counted(400, pause=0.001), queue=400, pool=pool)
        assert len(list(source)) == 400
    assert len(looks) < 400


def test_a_quarter_of_the_threads_feeds_decoders_that_work_ahead(counted):
    """Each that does passes Python's lock on many times a frame."""
    gate, held = threading.Event(), [counted(3) for _ in range(4)]
    for reader in held:
        reader.works_ahead, reader.pictures = True, lambda *_: (gate.wait(30) and None for _ in range(1))
    with DecodePool(workers=8) as pool:
        sources = [FrameSource(reader, pool=pool) for reader in held]
        settles(lambda: [job.busy for job in pool._jobs], [True, True, False, False])
        with FrameSource(counted(50), pool=pool) as other:
            assert [frame.index for frame in other] == list(range(50)), "the others feed what does not"
        sources[3].close()
        settles(lambda: len(pool._jobs), 3)
        gate.set()
        settles(lambda: len(pool._jobs), 0)


def test_a_decoder_works_ahead_of_every_picture_on_more_than_one_core_until_its_end(tmp_path, film):
    path = film.write(tmp_path / "clip.mp4", [film.picture(i) for i in range(60)])
    for workers, fps, ahead in ((4, None, True), (4, 2, False), (1, None, False)):
        with DecodePool(workers) as pool, pool.open(path, fps, queue=1) as source:
            next(source)
            assert source._reader.works_ahead is ahead
            list(source)
            assert source._reader.works_ahead is False


def test_a_short_source_that_is_read_is_not_kept_waiting_until_longer_ones_are_as_short(counted):
    """Each consumer takes what comes at once, so no source has a frame waiting."""
    with DecodePool(workers=1) as pool:
        sources = [FrameSource(counted(length, pause=0.005), pool=pool) for length in (100_000, 100_000, 100_000, 50)]
        for source in sources[:3]:
            threading.Thread(target=lambda source=source: [None for _ in source], daemon=True).start()
        got = []
        threading.Thread(target=lambda: got.extend(frame.index for frame in sources[3]), daemon=True).start()
        settles(lambda: len(got) >= 8, True, 8.0)
        for source in sources:
            source.close()


def test_two_who_take_from_one_source_at_the_same_moment_do_not_leave_it_asleep(counted):
    with DecodePool(workers=1) as pool:
        source = FrameSource(counted(1000), queue=2, pool=pool)
        source._ready.asked = True
        settles(lambda: len(source._ready.frames), 2)
        together, wake = threading.Barrier(2, timeout=10), source._ready.on_change
        source._ready.on_change = lambda *held: (together.wait(), wake(*held))
        takers = [threading.Thread(target=lambda: next(source), daemon=True) for _ in range(2)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join(10)
        source._ready.on_change = wake
        settles(lambda: len(source._ready.frames), 2)


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


def test_a_decoder_that_does_not_come_back_cannot_hold_up_the_end(counted):
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


def test_rounds_that_are_left_close_what_they_opened(tmp_path, film, pool):
    path = film.write(tmp_path / "a.mp4", [film.picture(i) for i in range(50)])
    rounds = pool.rounds([{"source": path}] * 4, streams=3)
    next(rounds)
    rounds.close()
    settles(lambda: len(pool._jobs), 0)
