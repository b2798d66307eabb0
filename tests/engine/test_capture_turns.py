"""Captures of CUDA graphs are not broken by threads that wait for the device."""

import threading
from contextlib import ExitStack

import pytest
import torch

from evostreaming.engine.capture_turns import TURNS, Turns

LONG = 10  # seconds after which a thread is taken for stuck


def in_a_thread(body):
    """(thread, event set once `body` has returned)."""
    done = threading.Event()
    thread = threading.Thread(target=lambda: (body(), done.set()), daemon=True)
    thread.start()
    return thread, done


def test_threads_wait_for_the_device_side_by_side_and_a_capture_for_all_of_them():
    turns = Turns()
    with ExitStack() as inside:
        for _ in range(2):
            inside.enter_context(turns.device_waits())
        thread, captured = in_a_thread(lambda: turns.capture().__enter__())
        assert not captured.wait(0.05)
    assert captured.wait(LONG)
    thread.join(LONG)


def test_nobody_waits_for_the_device_during_a_capture_nor_ahead_of_one_that_was_asked_for():
    turns, order = Turns(), []
    first = turns.device_waits()
    first.__enter__()

    def captures():
        with turns.capture():
            order.append("capture")

    def waits():
        with turns.device_waits():
            order.append("wait")

    capture, _ = in_a_thread(captures)
    with turns._changed:
        assert turns._changed.wait_for(lambda: turns._capturing, LONG)
    late, came_in = in_a_thread(waits)
    assert not came_in.wait(0.05) and order == []
    first.__exit__(None, None, None)
    capture.join(LONG)
    late.join(LONG)
    assert order == ["capture", "wait"]


def test_what_fails_inside_lets_the_others_in():
    turns = Turns()
    for turn in (turns.capture, turns.device_waits, turns.capture):
        with pytest.raises(ZeroDivisionError), turn():
            raise ZeroDivisionError
    with turns.capture():
        pass


@pytest.mark.gpu
def test_a_graph_is_captured_while_another_thread_keeps_waiting_for_the_device():
    """Without turns the capture is void, and what is behind it on the stream fails."""
    from evostreaming.engine.graphs import Graphs

    over, rounds = threading.Event(), []

    def disturb():
        while not over.is_set():
            with TURNS.device_waits():
                torch.cuda.synchronize()
            rounds.append(1)

    x, graphs = torch.ones(64, device="cuda"), Graphs(torch.device("cuda", torch.cuda.current_device()))
    thread, _ = in_a_thread(disturb)
    try:
        for index in range(20):
            graph, y = graphs.capture(lambda: [x * index + step for step in range(50)])  # noqa: B023
            graph.replay()
            torch.cuda.current_stream().synchronize()
            assert y[-1].tolist() == [index + 49] * 64
    finally:
        over.set()
        thread.join(LONG)
    assert len(rounds) > 20
