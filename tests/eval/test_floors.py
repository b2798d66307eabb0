"""Policies that look at no frame."""

import pytest

from evostreaming.eval.floors import POLICIES, make_trace, timing_floors
from evostreaming.eval.traces import read_traces, write_traces


def turns_of(trace):
    return [t.k for t in trace.turns if not t.silent]


def test_when_each_policy_speaks(make_episode):
    episode = make_episode(t_q=4.0, targets=((10, 10, 12), (31, 31, 35)))
    said = {p: turns_of(make_trace(episode, p)) for p in POLICIES}
    assert said == {
        "always-silent": [],
        "always-speak": list(range(2, 20)),
        "every-3rd-turn": [2, 5, 8, 11, 14, 17],
        "constant-delay-7s": [6],
        "oracle": [5, 16],
    }


def test_a_delay_beyond_the_end_stays_silent(make_episode):
    assert turns_of(make_trace(make_episode(t_q=34.0), "constant-delay-7s")) == []


def test_floor_traces_are_valid_traces(make_episode, tmp_path):
    episodes = [make_episode("a"), make_episode("b", regime="RT", t_q=9, form="letter"), make_episode("c", targets=())]
    for policy in POLICIES:
        traces = [make_trace(e, policy) for e in episodes]
        write_traces(tmp_path / policy, traces)
        assert list(read_traces(tmp_path / policy, episodes).values()) == traces


def test_floors_of_the_worked_example(make_episode):
    floors = timing_floors([make_episode()])
    assert {p: (round(r["mean"]["S"], 4), round(r["mean"]["E"], 4)) for p, r in floors.items()} == {
        "always-silent": (0, 0),
        "always-speak": (10.0, 9.5238),
        "every-3rd-turn": (90.0, 25.0),
        "constant-delay-7s": (0, 0),
        "oracle": (100.0, 100.0),
    }
    assert timing_floors([make_episode(regime="RT")]) == {}


@pytest.mark.parametrize("regime", ["RT", "FAR"])
def test_the_oracle_needs_one_word_per_target(make_episode, regime):
    trace = make_trace(make_episode(regime=regime, t_q=20), "oracle")
    assert turns_of(trace) == [10] and trace.turns[10].text == "the kettle boils"
