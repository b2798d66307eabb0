"""Which source of a pool is served next, by how many threads, and who is woken for it."""

import threading
from concurrent.futures import ThreadPoolExecutor

from evostreaming.engine import video_pool
from evostreaming.engine.video import FrameSource
from evostreaming.engine.video_pool import DecodePool


def test_videos_share_the_cores_evenly_however_near_to_each_other_they_are_opened(tmp_path, film, monkeypatch, settles):
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


def test_the_source_with_the_fewest_frames_waiting_is_next_then_the_one_with_most_to_come(counted, settles):
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


def test_sources_that_are_read_come_before_those_prepared_ahead_which_leave_half_of_the_threads(counted, settles):
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


def test_who_asks_first_is_served_while_sources_ahead_of_their_readers_are_slow(counted, settles):
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


def test_a_source_that_was_closed_before_anybody_read_it_is_let_go_of_next(counted, settles):
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


def test_a_quarter_of_the_threads_feeds_decoders_that_work_ahead(counted, settles):
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


def test_a_short_source_that_is_read_is_not_kept_waiting_until_longer_ones_are_as_short(counted, settles):
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


def test_two_who_take_from_one_source_at_the_same_moment_do_not_leave_it_asleep(counted, settles):
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
