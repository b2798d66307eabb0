"""Logits of every turn of a stream against the reference's one-shot values, in all five families."""

import pytest
import torch

from evostreaming.engine.gate import Gate

TOLERANCE = 1e-4  # max-abs, relative to the logits' scale


def replay(engine, data, stream, turns):
    for index in turns:
        yield index, engine.step(data.frame(index), stream, time=data.turns[index]["stream_time"][0], force=data.force(index))


def test_one_by_one_equals_the_reference(make_engine, data):
    engine = make_engine(data)
    with engine.open(query=data.query, system=data.trace["system"], logits=True) as stream:
        for index, step in replay(engine, data, stream, range(6)):
            assert data.error(step.logits, index) <= TOLERANCE
            assert step.speak == data.turns[index]["is_answer"] and step.index == index


def test_ids_in_the_context_are_the_templates(make_engine, data):
    engine = make_engine(data)
    expected = []
    with engine.open(query=data.query, system=data.trace["system"]) as stream:
        for index, _ in replay(engine, data, stream, range(6)):
            turn = data.turns[index]
            expected += turn["append_ids"] + turn["history_header_ids"]
            assert [*stream.context.tokens] == expected
            expected += turn["reply_ids"]


def test_a_free_greedy_reply_is_the_references(make_engine, data):
    engine = make_engine(data)
    with engine.open(query=data.query, system=data.trace["system"]) as stream:
        for index in range(6):
            turn = data.turns[index]
            unsure = [place for place, margin in enumerate(turn["greedy_margins"]) if margin < 2e-4 * data.scale]
            sure = turn["greedy_ids"][: unsure[0] if unsure else None]
            with stream.fork() as fork:
                step = engine.step(data.frame(index), fork)
                everything = [*fork.context.tokens, *fork.pending]
            end = len(everything) - len(engine.dialogue.end)
            said = everything[end - step.tokens : end]
            assert [*said, *engine.dialogue.end][: len(sure)] == sure
            list(replay(engine, data, stream, [index]))


def test_a_ragged_batch_equals_single_streams(make_engine, data):
    """Streams of different lengths, one with a query, one silent so far, one that has just replied, in one batch."""
    engine = make_engine(data)
    streams = [engine.open(query=data.query, system=data.trace["system"], logits=True) for _ in range(3)]
    for stream, ahead in zip(streams, (0, 2, 3)):
        list(replay(engine, data, stream, range(ahead)))
    for _ in range(3):
        where = [stream.index for stream in streams]
        steps = engine.step(
            [data.frame(index) for index in where],
            streams=streams,
            time=[data.turns[index]["stream_time"][0] for index in where],
            force=[data.force(index) for index in where],
        )
        for index, step in zip(where, steps):
            assert data.error(step.logits, index) <= TOLERANCE


def test_a_fork_goes_its_own_way_and_leaves_the_other_alone(make_engine, data, noise):
    engine = make_engine(data)
    with engine.open(query=data.query, system=data.trace["system"], logits=True) as stream:
        list(replay(engine, data, stream, range(2)))
        with stream.fork() as fork:
            for frame in noise(3):
                engine.step(frame, fork, force="something else entirely")
            for index, step in replay(engine, data, stream, range(2, 6)):
                assert data.error(step.logits, index) <= TOLERANCE
        assert fork.closed


@pytest.mark.parametrize("history", ["full", "replies"])
def test_scan_equals_stepping(make_engine, data, history):
    """Over silent turns and over turns that speak: a threshold between the middle probabilities makes both happen."""
    times = [2.0 * index for index in range(12)]
    frames = [data.frame(index * 5) for index in range(12)]
    probe = make_engine(data, gate=Gate("softmax", 1.0), history=history)
    with probe.open(query=data.query) as stream:
        seen = sorted(probe.step(frame, stream, time=time).probability for frame, time in zip(frames, times))
    threshold = (seen[5] + seen[6]) / 2
    engine = make_engine(data, gate=Gate("softmax", threshold, refractory=1), history=history)
    with engine.open(query=data.query, logits=True) as one, engine.open(query=data.query, logits=True) as other:
        stepped = [engine.step(frame, one, time=time) for frame, time in zip(frames, times)]
        scanned = engine.scan(frames, other, times=times)
        assert {step.speak for step in stepped} == {True, False}
        assert one.context.tokens == other.context.tokens and one.pending == other.pending
        assert one.context.next_position == other.context.next_position and one.index == other.index
    for a, b in zip(stepped, scanned, strict=True):
        assert (a.index, a.time, a.speak, a.text, a.tokens) == (b.index, b.time, b.speak, b.text, b.tokens)
        assert (a.logits - b.logits).abs().max() <= TOLERANCE * data.scale


def test_generate_leaves_no_trace(make_engine, data):
    engine = make_engine(data)
    with engine.open(query=data.query, system=data.trace["system"], logits=True) as stream:
        list(replay(engine, data, stream, range(3)))
        free, tokens = engine.cache.free, stream.context.tokens
        first = engine.generate(stream, "What is on the table?", max_tokens=5)
        assert engine.generate(stream, "What is on the table?", max_tokens=5) == first
        assert engine.cache.free == free and stream.context.tokens == tokens
        for index, step in replay(engine, data, stream, range(3, 6)):
            assert data.error(step.logits, index) <= TOLERANCE


def test_paging_does_not_change_logits(make_engine, golden):
    """Page numbers are taken in another order when streams come and go; the numbers stay the same."""
    data = golden("qwen2_5_vl")
    engine = make_engine(data)
    others = [engine.open(query="x" * count) for count in (3, 200, 90)]
    others[1].close()
    with engine.open(query=data.query, system=data.trace["system"], logits=True) as stream:
        others[0].close()
        for index, step in replay(engine, data, stream, range(6)):
            assert data.error(step.logits, index) <= TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_one_by_one_on_the_gpu(make_engine, data, dtype):
    engine = make_engine(data, device="cuda", dtype=dtype)
    with engine.open(query=data.query, system=data.trace["system"], logits=True) as stream:
        for index, step in replay(engine, data, stream, range(6)):
            expected = data.tensors[f"turn{index}.logits"]
            if dtype == "float32":
                assert data.error(step.logits, index) <= TOLERANCE
            else:
                assert torch.linalg.norm(step.logits.cpu() - expected) <= 0.03 * torch.linalg.norm(expected)
