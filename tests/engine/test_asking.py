"""Questions beside a stream: batches equal single questions, sampling follows its seed, and no trace is left."""

import pytest
import torch

from evostreaming.engine.errors import ArgumentError


@pytest.fixture
def watched(golden, make_engine, noise):
    """An engine and three streams that have seen different frames."""
    engine = make_engine(golden("qwen2_5_vl"), history="replies")
    streams = [engine.open(system="You watch.") for _ in range(3)]
    for seed, stream in enumerate(streams):
        engine.scan(noise(seed + 1, 56, 84, seed=seed), stream, force=False)
    return engine, streams


def test_a_batch_of_questions_answers_like_one_at_a_time_and_leaves_no_trace(watched):
    engine, streams = watched
    before, free = [list(stream.context.tokens) for stream in streams], engine.cache.free
    prompts = ["What is there?", "How many times?", "Where is it now?"]
    together = engine.generate(streams, prompts, 5)
    assert together == [engine.generate(stream, prompt, 5) for stream, prompt in zip(streams, prompts)]
    chosen = engine.choose(streams, prompts, ["A", "B", "yes"])
    for stream, prompt, row in zip(streams, prompts, chosen):
        assert engine.choose(stream, prompt, ["A", "B", "yes"]) == pytest.approx(row, abs=1e-5)
        assert sum(row) == pytest.approx(1)
    assert [list(stream.context.tokens) for stream in streams] == before and engine.cache.free == free


def test_choices_weigh_the_logits_of_their_first_tokens(watched, noise):
    engine, (stream, *_) = watched
    turn = engine.dialogue.turn
    ids = (*turn.text_turn("Which?"), *engine.dialogue.prompt)
    fork = stream.fork()
    from evostreaming.engine.asking import asked

    with torch.no_grad(), asked(engine, [fork], ["Which?"]) as (forks, rows):
        assert tuple(forks[0].context.tokens[-len(ids) :]) == ids
        logits = engine.forward.logits(rows)[0]
    expected = logits[[turn.encode(word)[0] for word in ("A", "B")]].softmax(-1)
    assert engine.choose(stream, "Which?", ["A", "B"]) == pytest.approx(expected.tolist(), abs=1e-6)


def test_likelihoods_are_those_of_reading_the_reply_word_by_word(watched):
    engine, (stream, *_) = watched
    before, free, turn = list(stream.context.tokens), engine.cache.free, engine.dialogue.turn
    told = engine.generate(stream, "What is there?", 4)
    replies = [told, told + "xy", "A", "quite something else", "B"]  # more than one batch of them
    pairs = engine.likelihoods(stream, "What is there?", replies)
    assert [greedy for _, greedy in pairs][:2] == [True, False]
    from evostreaming.engine.asking import asked

    for reply, (loss, greedy) in zip(replies, pairs):
        ids, spent, likeliest = turn.encode(reply), [], []
        for index, token in enumerate(ids):
            with torch.no_grad(), asked(engine, [stream], ["What is there?"], [ids[: index + 1]]) as (_, rows):
                logits = engine.forward.logits(rows[-1:])[0]
            spent.append(-logits.log_softmax(-1)[token].item())
            likeliest.append(logits.argmax().item() == token)
        assert loss == pytest.approx(sum(spent) / len(spent), abs=1e-5) and greedy == all(likeliest)
    assert list(stream.context.tokens) == before and engine.cache.free == free


def test_replies_without_a_likelihood_are_refused(watched):
    engine, (stream, *_) = watched
    assert engine.likelihoods(stream, "Well?", []) == []
    for replies, message in ((["yes", ""], "empty reply"), ([3], "is text")):
        with pytest.raises(ArgumentError, match=message):
            engine.likelihoods(stream, "Well?", replies)


def test_sampling_follows_its_seed_and_differs_from_the_most_likely_words(watched):
    engine, streams = watched
    prompts = ["What is there?"] * 3
    drawn = [engine.generate(streams, prompts, 8, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != engine.generate(streams, prompts, 8)


def test_a_forced_scan_is_silent_whatever_the_gate_says(golden, make_engine, noise):
    from evostreaming.engine.gate import Gate

    engine = make_engine(golden("qwen2_5_vl"), gate=Gate("softmax", threshold=0.0))
    frames = noise(5, 56, 84)
    with engine.open() as scanned, engine.open() as stepped:
        steps = engine.scan(frames, scanned, force=False)
        alone = [engine.step(frame, stepped, force=False) for frame in frames]
        assert not any(step.speak for step in steps)
        assert [step.probability for step in steps] == pytest.approx([step.probability for step in alone], abs=1e-5)
        assert scanned.context.tokens == stepped.context.tokens
        assert engine.scan(frames[:1], scanned)[0].speak


@pytest.mark.parametrize("choices", [["yes"], ["yes", "yes"], ["", "no"]])
def test_choices_that_cannot_be_told_apart_are_refused(watched, choices):
    engine, (stream, *_) = watched
    with pytest.raises(ArgumentError, match="different tokens"):
        engine.choose(stream, "Well?", choices)


def test_streams_and_prompts_of_different_number_are_refused(watched):
    engine, streams = watched
    with pytest.raises(ArgumentError, match="a prompt for each"):
        engine.generate(streams, ["What?"])
