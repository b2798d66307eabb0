"""How many frames a scan reads in a pass: the best number for how often the stream speaks, and what it costs when that changes."""

from types import SimpleNamespace

import pytest

from evostreaming.engine.gate import Gate
from evostreaming.engine.scan import ENCODE_AT_ONCE, PASS_COST, PASS_FRAMES, PASS_TOKENS, Pace

SILENT, SPOKE = SimpleNamespace(speak=False), SimpleNamespace(speak=True)
TOKENS = 272


def pace_at(chance):
    pace = Pace(True)
    pace.spoke, pace.turns = chance, 1.0
    return pace


def kept_a_cost(count, chance, resting, tokens, passes):
    """Frames that a pass of `count` keeps on average, for each frame's worth of time that it takes."""
    kept = sum((1 - chance) ** max(0, index - resting) for index in range(count))
    return kept / (count + passes * PASS_COST / tokens)


@pytest.mark.parametrize("tokens", [80, 144, 272])
@pytest.mark.parametrize("resting", [0, 1, 9])
@pytest.mark.parametrize("chance", [0.5, 0.2, 0.1, 0.03, 0.01, 0.001])
def test_a_pass_keeps_nearly_as_much_for_its_cost_as_any_other(chance, resting, tokens):
    for passes in (1, 2):
        count = pace_at(chance).frames(resting, tokens, passes)
        best = max(kept_a_cost(other, chance, resting, tokens, passes) for other in range(1, min(PASS_FRAMES, PASS_TOKENS // tokens) + 1))
        assert kept_a_cost(count, chance, resting, tokens, passes) > 0.96 * best
        assert count * tokens <= PASS_TOKENS


def test_passes_grow_while_a_stream_is_silent_and_shrink_when_it_speaks():
    pace, sizes = Pace(True), []
    while sum(sizes) < 400:
        sizes.append(pace.frames(0, TOKENS, 1))
        pace.saw([SILENT] * sizes[-1], 0)
    assert sizes[0] <= 3 and sizes == sorted(sizes) and sizes[-1] == PASS_TOKENS // TOKENS // 4 * 4
    for _ in range(30):
        pace.saw([SILENT, SPOKE], 0)
    assert pace.frames(0, TOKENS, 1) == 1


def test_turns_at_rest_are_read_for_certain_and_say_nothing():
    always = pace_at(1.0)
    assert [always.frames(resting, TOKENS, 1) for resting in (0, 1, 9)] == [1, 2, 10]
    pace = Pace(True)
    pace.saw([SILENT] * 9, 9)
    assert (pace.spoke, pace.turns) == (Pace(True).spoke, Pace(True).turns)


def test_a_scan_that_is_silent_for_certain_takes_the_largest_passes(make_engine, golden, noise):
    assert passes_of(make_engine(golden("qwen2_5_vl"), max_tokens=4096), noise(36), force=False) == [PASS_FRAMES, 36 - PASS_FRAMES]


def test_a_scan_reads_up_to_the_turn_that_speaks_behind_a_rest(make_engine, golden, noise):
    """Always willing to speak, with six turns of rest behind each reply: once that is known, runs of seven, and nothing is read in vain."""
    engine = make_engine(golden("qwen2_5_vl"), gate=Gate("softmax", 0.0, refractory=6), max_tokens=4096, max_reply=1)
    passes = passes_of(engine, noise(60))
    assert passes[-5:-1] == [7] * 4 and sum(passes) < 60 + 2 * ENCODE_AT_ONCE


def passes_of(engine, frames, force=None):
    """Frames of each pass that a scan of a new stream makes."""
    passes, reserve = [], engine.forward.reserve
    engine.forward.reserve = lambda contexts, chunks: passes.append(len(chunks[0].features)) or reserve(contexts, chunks)
    with engine.open() as stream:
        engine.scan(frames, stream, force=force)
    return [count for count in passes if count]
