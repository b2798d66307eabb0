"""Submitted frames become the Steps that stepping gives, batched, between the tokens of replies; an error stays with its stream."""

import numpy as np
import pytest
import torch

from evostreaming.engine.errors import FrameError, OutOfPages
from evostreaming.engine.gate import Gate

SOON = 60  # seconds; nothing here takes one


@pytest.fixture
def data(golden):
    return golden("qwen2_5_vl")


def passes_of(engine, monkeypatch):
    """Records the passes of the decoder from here on: the list of new tokens a stream."""
    passes, reserve = [], engine.forward.reserve

    def record(contexts, chunks):
        passes.append([chunk.tokens for chunk in chunks])
        return reserve(contexts, chunks)

    monkeypatch.setattr(engine.forward, "reserve", record)
    return passes


def state(stream):
    return stream.context.tokens, stream.pending, stream.query, stream.index, stream.refractory, stream.context.next_position


def same(steps, expected, scale):
    assert len(steps) == len(expected)
    for ours, theirs in zip(steps, expected):
        assert (ours.index, ours.time, ours.speak, ours.text, ours.tokens) == (
            theirs.index, theirs.time, theirs.speak, theirs.text, theirs.tokens
        )  # fmt: skip
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-5)
        assert (ours.logits - theirs.logits).abs().max() <= 1e-4 * scale


QUESTIONS = {(0, 2): "How many cups?", (1, 1): "What now?", (2, 0): "Is there a dog?"}  # (stream, turn)
TURNS = (6, 5, 3)


def watch(engine, data, show):
    """Three streams of different length with questions on the way: show(frame, stream, time) for each frame."""
    streams = [engine.open(query=None if index == 2 else data.query, logits=True) for index in range(3)]
    shown = [[] for _ in streams]
    for turn in range(max(TURNS)):
        for index, stream in enumerate(streams):
            if turn < TURNS[index]:
                if (index, turn) in QUESTIONS:
                    stream.ask(QUESTIONS[index, turn])
                shown[index].append(show(data.frame(turn + index), stream, time=float(turn * (index + 1))))
    return streams, shown


def test_submitted_frames_give_the_steps_of_stepping(make_talker, data, monkeypatch):
    engine = make_talker(max_streams=6, max_reply=9)
    said, replied = [], engine.dialogue.replied
    with monkeypatch.context() as patch:
        patch.setattr(engine.dialogue, "replied", lambda stream, ids, *rest: (said.append(ids), replied(stream, ids, *rest)))
        streams, _ = watch(engine, data, engine.step)
    ends = {ids[place] for ids, place in zip(said, (3, 5, 7))}  # so that replies end early, each at its own length
    monkeypatch.setattr(engine.dialogue.turn, "end_ids", ends | set(engine.dialogue.turn.end_ids))
    stepped, expected = watch(engine, data, engine.step)
    for stream in streams:
        stream.close()
    looped, futures = watch(engine, data, engine.submit)
    assert len({step.tokens for steps in expected for step in steps}) > 2, "the replies were to differ in length"
    for index in range(3):
        same([future.result(SOON) for future in futures[index]], expected[index], data.scale)
        assert state(looped[index]) == state(stepped[index])


def test_what_waits_is_one_batch_and_replies_let_other_streams_pass(make_talker, data, monkeypatch):
    engine = make_talker()
    with engine.open() as speaker, engine.open() as silent:
        engine.step(data.frame(0), silent)  # it has spoken; its next two turns are silent
        passes, order = passes_of(engine, monkeypatch), []
        with engine._exclusive():
            futures = [engine.submit(data.frame(0), speaker)] + [engine.submit(data.frame(turn), silent) for turn in (1, 2)]
            for name, future in zip(("reply", "first", "second"), futures):
                future.add_done_callback(lambda _, name=name: order.append(name))
        steps = [future.result(SOON) for future in futures]
        tokens = steps[0].tokens
    assert [step.speak for step in steps] == [True, False, False] and tokens == 6
    assert order == ["first", "second", "reply"]
    frames = [index for index, sizes in enumerate(passes) if sizes != [1]]
    assert [len(passes[index]) for index in frames] == [2, 1] and frames == [0, 2], "one token stands between two frames, no more"
    assert len(passes) == 2 + tokens - 1


def test_replies_are_decoded_together(make_talker, data, monkeypatch):
    engine = make_talker()
    streams = [engine.open() for _ in range(3)]
    passes = passes_of(engine, monkeypatch)
    with engine._exclusive():
        futures = [engine.submit(data.frame(index), stream) for index, stream in enumerate(streams)]
    assert [future.result(SOON).tokens for future in futures] == [6, 6, 6]
    assert [len(sizes) for sizes in passes] == [3] * 6 and passes[1:] == [[1, 1, 1]] * 5


def test_a_question_rides_with_the_next_submitted_frame(make_talker, data):
    engine = make_talker()
    with engine.open() as stream, engine.open() as witness:
        with engine._exclusive():
            futures = [engine.submit(data.frame(0), stream)]
            stream.ask("What is it?")
            stream.ask("And where?")
            futures.append(engine.submit(data.frame(1), stream))
            stream.ask("Later?")
        for future in futures:
            future.result(SOON)
        assert stream.query == "Later?"
        engine.step(data.frame(0), witness)
        witness.ask("What is it?\nAnd where?")
        engine.step(data.frame(1), witness)
        assert stream.context.tokens == witness.context.tokens


def test_an_error_lands_in_the_future_of_its_stream(make_talker, data, monkeypatch):
    engine = make_talker()
    rows = engine.frames.patches
    monkeypatch.setattr(engine.frames, "patches", lambda frame, size: rows(frame, size) * (float("nan") if frame.sum() == 0 else 1))
    with engine.open(query="q", logits=True) as good, engine.open(query="q", logits=True) as bad, engine.open(logits=True) as witness:
        witness.ask("q")
        before = state(bad)
        with engine._exclusive():
            fine = engine.submit(data.frame(0), good)
            nan, wrong = engine.submit(torch.zeros(112, 140, 3, dtype=torch.uint8), bad), engine.submit(np.zeros((3, 4)), bad)
        with pytest.raises(FrameError, match="NaN"):
            nan.result(SOON)
        with pytest.raises(FrameError, match="uint8"):
            wrong.result(SOON)
        expected = engine.step(data.frame(0), witness)
        same([fine.result(SOON)], [expected], data.scale)
        assert state(bad) == before, "the question still waits"
        same([engine.submit(data.frame(0), bad).result(SOON)], [expected], data.scale)


def test_no_pages_for_one_reply_leaves_the_others_whole(make_talker, data, monkeypatch):
    engine = make_talker()
    with engine.open(logits=True) as good, engine.open(logits=True) as poor, engine.open(logits=True) as witness:
        expected, before = engine.step(data.frame(0), witness), state(poor)
        extend, asked = poor.context.table.extend, []

        def refuse(count):
            asked.append(count)
            if count == 1 and asked.count(1) > 3:  # in the middle of the reply
                raise OutOfPages(0, 1, "this stream")
            return extend(count)

        with monkeypatch.context() as patch:
            patch.setattr(poor.context.table, "extend", refuse)
            with engine._exclusive():
                futures = [engine.submit(data.frame(0), stream) for stream in (good, poor)]  # `good` has taken its token when `poor` cannot
            with pytest.raises(OutOfPages):
                futures[1].result(SOON)
        same([futures[0].result(SOON)], [expected], data.scale)
        assert state(good) == state(witness) and state(poor) == before
        same([engine.submit(data.frame(0), poor).result(SOON)], [expected], data.scale)


def test_the_caller_may_reuse_its_buffer(make_talker, data):
    engine = make_talker()
    with engine.open() as stream, engine.open() as witness:
        buffer = data.frame(0).numpy().copy()
        with engine._exclusive():
            future = engine.submit(buffer, stream)
            buffer[:] = 0
        assert future.result(SOON).probability == pytest.approx(engine.step(data.frame(0), witness).probability, abs=1e-6)


def test_latency_counts_every_token_of_the_reply(make_talker, data):
    engine = make_talker()
    with engine.open() as stream:
        spoken, silent = engine.submit(data.frame(0), stream).result(SOON), engine.submit(data.frame(1), stream).result(SOON)
    for step in (spoken, silent):
        parts = step.latency
        assert parts.total == pytest.approx(parts.preprocess + parts.vision + parts.prefill + parts.gate + parts.reply)
    assert spoken.tokens == 6 and spoken.latency.reply > 5 * silent.latency.reply


@pytest.mark.gpu
def test_on_a_gpu_submitted_frames_equal_stepped_ones(make_talker, data):
    engine = make_talker(device="cuda", dtype="bfloat16", max_streams=6, gate=Gate("greedy", refractory=100))
    frames = [data.frame(index) for index in range(3)]
    kinds = (lambda frame: frame.numpy(), lambda frame: frame.pin_memory(), lambda frame: frame.cuda())
    for kind in kinds:
        with engine.open(query=data.query, logits=True) as looped, engine.open(query=data.query, logits=True) as stepped:
            futures = []
            for frame in frames:
                buffer = kind(frame.clone())
                futures.append(engine.submit(buffer, looped))
                buffer[:] = 0
            expected = [engine.step(frame, stepped) for frame in frames]
            for future, step in zip(futures, expected):
                ours = future.result(SOON)
                assert torch.linalg.norm(ours.logits - step.logits) <= 0.02 * torch.linalg.norm(step.logits), step.index
