"""What submitted frames leave when something ends: a stream, a wait, the engine, the program."""

import gc
import subprocess
import sys
import threading
import weakref
from concurrent.futures import CancelledError

import pytest

from evostreaming.engine import loop
from evostreaming.engine.errors import EngineBusy, StreamClosed

SOON = 60  # seconds; nothing here takes one


@pytest.fixture
def data(golden):
    return golden("qwen2_5_vl")


def test_a_stream_closed_first_says_so_and_gives_its_pages_back(make_talker, data):
    engine = make_talker()
    free = engine.cache.free
    with engine.open() as other:
        stream = engine.open()
        with engine._exclusive():
            futures = [engine.submit(data.frame(index), stream) for index in range(3)]
            kept = engine.submit(data.frame(0), other)
            stream.close()
        for future in futures:
            with pytest.raises(StreamClosed):
                future.result(SOON)
        with pytest.raises(StreamClosed):
            engine.submit(data.frame(0), stream)
        assert kept.result(SOON).speak
    assert engine.cache.free == free


def test_a_stream_may_be_closed_in_the_middle_of_its_reply(make_talker, data, monkeypatch):
    engine = make_talker(max_reply=64)
    free, stream = engine.cache.free, engine.open()
    begun, advance = threading.Event(), loop.advance
    monkeypatch.setattr(loop, "advance", lambda *args: (begun.set(), advance(*args)))
    with engine.open() as other:
        futures = [engine.submit(data.frame(0), each) for each in (stream, other)]
        assert begun.wait(SOON)
        with engine._exclusive():
            assert not futures[0].done()
            stream.close()
        with pytest.raises(StreamClosed):
            futures[0].result(SOON)
        assert futures[1].result(SOON).tokens == 64
    assert engine.cache.free == free


def test_a_canceled_frame_is_not_shown_and_its_question_goes_on(make_talker, data):
    engine = make_talker()
    with engine.open() as stream, engine.open(query="Where?") as witness:
        with engine._exclusive():
            stream.ask("Where?")
            canceled, shown = engine.submit(data.frame(0), stream), engine.submit(data.frame(1), stream)
            assert canceled.cancel()
        assert shown.result(SOON).index == 0
        engine.step(data.frame(1), witness)
        assert stream.context.tokens == witness.context.tokens


def test_calls_from_other_threads_take_their_turn_and_a_busy_stream_refuses_them(make_talker, data):
    engine = make_talker()
    with engine.open() as busy, engine.open() as free:
        with engine._exclusive():
            futures = [engine.submit(data.frame(index), busy) for index in range(3)]
            for call in (lambda: engine.step(data.frame(0), busy), busy.fork, lambda: engine.generate(busy, "What?")):
                with pytest.raises(EngineBusy, match="under way"):
                    call()
        steps = [engine.step(data.frame(index), free) for index in range(3)]
        assert [step.text for step in steps] == [future.result(SOON).text for future in futures]
        assert engine.step(data.frame(3), busy).index == 3


def test_a_stream_has_a_bounded_number_of_frames_under_way(make_talker, data):
    engine = make_talker()
    stream = engine.open()
    refused = threading.Event()

    def one_more(_):
        try:
            for _ in range(loop.WAITING):
                engine.submit(data.frame(0), stream)
        except EngineBusy:
            refused.set()

    with engine._exclusive():
        futures = [engine.submit(data.frame(index), stream) for index in range(loop.WAITING)]
        futures[0].add_done_callback(one_more)
        blocked = threading.Thread(target=engine.submit, args=(data.frame(0), stream))
        blocked.start()
        blocked.join(0.2)
        assert blocked.is_alive() and len(engine._loop.waiting[stream]) == loop.WAITING
    blocked.join(SOON)
    assert not blocked.is_alive() and refused.wait(SOON), "waiting there would be waiting for oneself"


def test_close_cancels_what_waits_and_another_stream_begins_anew(make_talker, data):
    engine = make_talker()
    free = engine.cache.free
    stream = engine.open()

    def leave():
        with engine:
            pass

    with engine._exclusive():
        futures = [engine.submit(data.frame(index), stream) for index in range(3)]
        thread, leaving = engine._loop.thread, threading.Thread(target=leave)
        leaving.start()
        for future in futures:
            with pytest.raises(CancelledError):
                future.result(SOON)
    leaving.join(SOON)
    assert stream.closed and engine.cache.free == free and not thread.is_alive() and engine._loop.thread is None
    assert engine.submit(data.frame(0), engine.open()).result(SOON).index == 0


def test_there_is_no_thread_without_a_submitted_frame_nor_long_after_it(make_engine, data, monkeypatch):
    monkeypatch.setattr(loop, "LINGER", 0.01)
    engine = make_engine(data)
    stream = engine.open()
    engine.step(data.frame(0), stream)
    assert engine._loop.thread is None
    with engine._exclusive():
        future = engine.submit(data.frame(0), stream)
        thread = engine._loop.thread
    assert future.result(SOON).index == 1
    thread.join(SOON)
    assert not thread.is_alive() and engine._loop not in loop.RUNNING
    gone = weakref.ref(engine)
    stream.close()
    del engine, stream, future
    gc.collect()
    assert gone() is None, "an engine that nobody uses stays in memory"


def test_the_program_ends_while_frames_wait(data):
    program = f"""
from evostreaming.engine.engine import Engine
from evostreaming.engine.gate import Gate
import numpy
engine = Engine.from_pretrained({str(data.checkpoint)!r}, device="cpu", max_streams=1, gate=Gate("softmax", 0.0), max_reply=4000)
stream = engine.open()
for _ in range(3):
    engine.submit(numpy.zeros((56, 56, 3), numpy.uint8), stream)
raise KeyboardInterrupt
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=SOON)
    assert done.stderr.rstrip().endswith("KeyboardInterrupt") and done.returncode in (1, 130, -2), done.stderr
