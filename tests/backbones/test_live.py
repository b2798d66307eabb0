"""Logits of streams that no golden trace holds, against the reference run live on the same tokens: sizes, queries, replies, batches."""

import pytest

SIZES = [(84, 168), (250, 90), (160, 160)]  # legal for some families, resized by others


@pytest.mark.parametrize("history", ["full", "replies"])
def test_a_stream_with_several_queries_and_replies(data, make_engine, place, reference, at_decision, noise, close, history):
    engine, truth = make_engine(data, history=history, **place), reference(data, data.checkpoint)
    frames = noise(6, 120, 200, seed=5)
    asked = {0: "Count the people.", 2: "And the dogs?", 3: "Zwölf Hühner – 数一数"}
    with engine.open(logits=True) as stream:
        for index, frame in enumerate(frames):
            if index in asked:
                stream.ask(asked[index])
            reply = "Two of them." if index in (1, 3) else False
            step = engine.step(frame, stream, time=0.4 * index, force=reply)
            tokens = at_decision(engine, stream, silent=not reply)
            assert close(step.logits, truth(engine, tokens, frames[: index + 1])), index


def test_a_batch_of_frames_of_different_sizes_in_streams_of_different_lengths(
    data, make_engine, place, reference, at_decision, noise, close
):
    engine, truth = make_engine(data, **place), reference(data, data.checkpoint)
    shown = [noise(count + 2, *size, seed=count) for count, size in enumerate(SIZES)]
    streams = [engine.open(query="q" * (1 + 9 * index), logits=True) for index in range(3)]
    for stream, frames in zip(streams, shown):
        for frame in frames[:-2]:
            engine.step(frame, stream, force=False)
    for turn in (-2, -1):
        forces = [False, "Yes.", False]
        steps = engine.step([frames[turn] for frames in shown], streams=streams, force=forces)
        for stream, frames, step in zip(streams, shown, steps):
            expected = truth(engine, at_decision(engine, stream), frames[: len(frames) + turn + 1])
            assert close(step.logits, expected)
    assert len({len(stream.context.tokens) for stream in streams}) == 3
