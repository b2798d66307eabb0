"""Captures are bounded in number and memory, and shapes that come no more make way for those that come now."""

import threading
from contextlib import suppress

import pytest
import torch

from evostreaming.engine import graphs as module
from evostreaming.engine.capture_turns import VoidCapture
from evostreaming.engine.graphs import Graphs

MIB = 2**20


@pytest.fixture
def few(monkeypatch):
    """Graphs on the CPU of which 3 are kept, in 10 bytes, and that have paid after 4 replays each."""
    monkeypatch.setattr(module, "KEPT", 3)
    monkeypatch.setattr(module, "PAID", 4)
    graphs = Graphs(torch.device("cpu"))
    graphs.limit = 10
    return graphs


def ask(graphs, key, size=0, times=1):
    """Ask for a shape whose capture makes the pool grow by `size`: the graph of the last time, or None."""

    def make():
        graphs.bytes += size
        return f"graph of {key}, beside {', '.join(map(str, graphs.kept)) or 'none'}"

    for _ in range(times):
        found = graphs.get(key, make)
    return found


def test_a_shape_is_captured_when_it_comes_again_and_the_oldest_is_gone_before_the_new_one_is_made(few):
    assert ask(few, 0) is None
    assert [ask(few, key, times=2) for key in range(3)][2] == "graph of 2, beside 0, 1"
    ask(few, 0)
    assert ask(few, 3, times=2) == "graph of 3, beside 2, 0"


def test_a_full_pool_takes_no_new_shape_until_its_graphs_have_paid(few):
    ask(few, "a", 6, times=2)
    ask(few, "b", 6, times=2)
    assert ask(few, "c", 6, times=5) is None, "each graph was replayed once"
    assert list(few.kept) == ["a", "b"] and few.bytes == 12
    ask(few, "a", times=6)
    few.pool = "old"
    assert ask(few, "c", 6) == "graph of c, beside none"
    assert few.bytes == 6 and few.pool is None, "what was dropped counts no more, and its pool is left"
    assert ask(few, "a", 6) == "graph of a, beside c"


def test_changing_shapes_are_captured_for_ever_within_the_bound(few):
    """Before, once the limit was reached, nothing new was captured any more."""
    for phase in range(30):
        for _ in range(20):
            ask(few, (phase, 0), 4), ask(few, (phase, 1), 4)
        assert {(phase, 0), (phase, 1)} <= set(few.kept), phase
        assert few.bytes < few.limit + 4 and len(few.kept) <= 3


def test_more_shapes_than_fit_are_not_captured_in_turns(few):
    captured = 0
    few.limit = 2
    for turn in range(1000):
        before = few.bytes
        ask(few, turn % 5, 1)
        captured += few.bytes != before
    assert captured <= 1000 * 2 / 8 + 5, "a pass in four at most pays for a capture"


@pytest.mark.gpu
def test_what_is_dropped_serves_later_captures_and_a_new_pool_gives_memory_back():
    graphs = Graphs(torch.device("cuda"))
    source = torch.zeros(64 * MIB, dtype=torch.uint8, device="cuda")

    def capture(key):
        for _ in range(2):
            found = graphs.get(key, lambda: graphs.capture(lambda: source + 1))
        return found

    capture(0), capture(1)
    two = graphs.bytes
    assert 128 * MIB <= two < 200 * MIB
    del graphs.kept[0]
    capture(2)
    assert graphs.bytes - two < 32 * MIB, "the blocks of the dropped graph were not reused"
    graph, result = graphs.kept[2]
    source.fill_(6)
    graph.replay()
    assert (result == 7).all()
    del graph, result
    held = torch.cuda.memory_reserved()
    graphs.limit, graphs.replays = 0, module.PAID * len(graphs.kept)
    capture(3)
    assert graphs.bytes < two and torch.cuda.memory_reserved() <= held - 32 * MIB


def test_a_shape_whose_captures_were_void_runs_without_a_graph_and_is_tried_again(few):
    def void():
        raise VoidCapture

    assert ask(few, "a") is None
    with pytest.warns(UserWarning, match="keeps waiting for the device"):
        assert few.get("a", void) is None
    assert ask(few, "a") is None, "not at once"
    assert ask(few, "a") == "graph of a, beside none"


@pytest.mark.gpu
def test_what_is_forbidden_in_a_capture_is_not_taken_for_somebody_elses_fault():
    x, calls = torch.ones(4, device="cuda"), []
    with pytest.raises(RuntimeError, match="capture"):
        Graphs(torch.device("cuda", torch.cuda.current_device())).capture(lambda: calls.append(1) or x.sum().item())
    assert len(calls) == 2, "once before, once captured"


@pytest.mark.gpu
def test_a_void_capture_is_tried_again_and_leaves_captures_and_memory_sound():
    def in_the_way():
        with suppress(RuntimeError):  # it is told, too
            torch.cuda.synchronize()

    def work(voids):
        calls.append(1)
        y = torch.cat([x, x]) + 1
        if 1 < len(calls) <= 1 + voids:  # the first call is no capture
            thread = threading.Thread(target=in_the_way)
            thread.start()
            thread.join()
        return y * 2

    graphs, x = Graphs(torch.device("cuda", torch.cuda.current_device())), torch.ones(1 << 20, device="cuda")
    stream = torch.cuda.current_stream()
    kept = []
    for voids in (0, 1, 2, 0):
        calls = []
        kept.append(graphs.capture(lambda: work(voids)))  # noqa: B023
        assert len(calls) == 2 + voids and torch.cuda.current_stream() == stream
    calls = []
    with pytest.raises(VoidCapture):
        graphs.capture(lambda: work(9))
    assert len(calls) == 1 + module.TRIES and torch.cuda.current_stream() == stream
    torch.cuda.empty_cache()  # torch would stop the process here, were it still recording
    assert 0 <= torch.rand(1, device="cuda").item() < 1, "and refuse random numbers"
    x.fill_(3)
    for graph, y in kept:
        graph.replay()
        assert y.unique().tolist() == [8] and len(y) == 2 << 20
    free = torch.cuda.mem_get_info()[0]
    kept.clear()
    del graph, y
    torch.cuda.empty_cache()
    assert torch.cuda.mem_get_info()[0] > free, "the pools of graphs that are gone are given back"
