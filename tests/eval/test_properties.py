"""The properties of RSE-1.0 section 12 that hold for any trace: 1, 3, 4, 5, 6, 11, 12, and 2 in small.

2 on OVO-Bench itself is in suites/test_ovobench.py, 7 in test_score_command.py, 8 and 9 in test_stream.py and, on an engine, in
test_sweep.py, 10 in test_worked_examples.py.
"""

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evostreaming.eval.event import event_score, quiet_score
from evostreaming.eval.floors import make_trace as floor_trace
from evostreaming.eval.judges import LexicalJudge
from evostreaming.eval.primary import primary_score
from evostreaming.eval.scoring import score_episode, score_run

VERDICT = st.sampled_from([0.0, 0.5, 1.0])
EXAMPLES = settings(max_examples=150, deadline=None)


@st.composite
def events(draw):
    starts = sorted(draw(st.lists(st.integers(0, 90), min_size=1, max_size=4)))
    windows = [(float(a), float(a + draw(st.integers(0, 8)))) for a in starts]
    times = sorted(float(t) for t in draw(st.lists(st.integers(0, 100), max_size=7)))
    verdicts = [[draw(VERDICT) for _ in windows] for _ in times]
    return windows, times, verdicts


def e_of(windows, times, verdicts):
    return event_score(windows, times, verdicts, [True] * len(times), [False] * len(times)).score


@pytest.mark.parametrize("regime", ["RT", "BT", "FAR"])
def test_silence_scores_zero(make_episode, make_trace, regime):
    episode = make_episode(regime=regime, t_q=20.0)
    score = score_episode(episode, make_trace(episode, {}), LexicalJudge())
    assert (score.S, score.E, score.Q) == (0.0, 0.0, None)


def test_silence_is_perfect_in_a_quiet_episode_and_speech_falls_to_zero_at_two_a_minute(make_episode, make_trace):
    episode = make_episode(targets=(), t_end=60.0)
    q = lambda said: score_episode(episode, make_trace(episode, said), LexicalJudge())  # noqa: E731
    assert (q({}).S, q({}).E, q({}).Q) == (None, None, 1.0)
    assert pytest.approx(0.5) == q({3: "a"}).Q
    assert q({3: "a", 9: "b"}).Q == 0.0 == quiet_score(3, 1.0)


@EXAMPLES
@given(events(), st.floats(0, 120))
def test_a_response_wrong_everywhere_never_raises_e(case, t):
    windows, times, verdicts = case
    longer = sorted([*times, t])
    at = longer.index(t)
    assert e_of(windows, longer, [*verdicts[:at], [0.0] * len(windows), *verdicts[at:]]) <= e_of(*case) + 1e-9


@EXAMPLES
@given(events(), st.data())
def test_s_and_e_do_not_fall_when_a_verdict_rises(case, data):
    windows, times, verdicts = case
    if not times:
        return
    i, j = data.draw(st.integers(0, len(times) - 1)), data.draw(st.integers(0, len(windows) - 1))
    raised = [list(row) for row in verdicts]
    raised[i][j] = 1.0
    assert e_of(windows, times, raised) >= e_of(*case) - 1e-9
    stars, spoken = [int(a) for a, _ in windows], [int(t) for t in times]
    before, after = (primary_score("FAR", stars, spoken, 101, 2, v) for v in (verdicts, raised))
    assert after >= before - 1e-9


@EXAMPLES
@given(st.integers(1, 400), st.sampled_from([0.5, 1.0, 2.0]), st.sets(st.integers(0, 19)), st.booleans())
def test_shifting_stream_query_and_targets_by_whole_turns_changes_nothing(make_episode, make_trace, steps, fps, turns, right):
    said = {k: "the kettle boils" if right else f"thing {k}" for k in turns}
    scores = []
    for by in (0.0, steps / fps):
        at = lambda turn: by + turn / fps  # noqa: B023, E731
        episode = make_episode(targets=((at(10), at(10), at(15)),), t_q=at(2), fps=fps, t_start=by, t_end=at(19))
        scores.append(score_episode(episode, make_trace(episode, said), LexicalJudge()))
    plain, moved = scores
    assert (plain.S, plain.E, plain.classes) == (moved.S, pytest.approx(moved.E), moved.classes)


def test_the_order_of_episodes_does_not_change_a_byte(make_episode, make_trace):
    rng = random.Random(1)
    episodes = [make_episode(f"e{i}", regime=rng.choice(["RT", "BT", "FAR"]), t_q=rng.choice([0.0, 7.0])) for i in range(20)]
    traces = {e.episode_id: make_trace(e, {k: "the kettle" for k in rng.sample(range(20), 3)}) for e in episodes}
    text = json.dumps([s.row() for s in score_run(episodes, traces, LexicalJudge())])
    rng.shuffle(episodes)
    assert json.dumps([s.row() for s in score_run(episodes, traces, LexicalJudge())]) == text


def test_e_is_the_same_at_twice_the_frame_rate_if_the_response_times_are_kept(make_episode, make_trace):
    for said in ({}, {10: "the kettle boils"}, {3: "a", 10: "b", 16: "the kettle boils"}, {k: "the kettle" for k in range(20)}):
        slow, fast = make_episode(fps=0.5), make_episode(fps=1.0)
        doubled = {2 * k: text for k, text in said.items()}
        scores = [score_episode(e, make_trace(e, s), LexicalJudge()) for e, s in ((slow, said), (fast, doubled))]
        assert pytest.approx(scores[1].E) == scores[0].E


def test_the_oracle_is_perfect(make_episode):
    for fps in (0.5, 1.0, 2.0):
        episode = make_episode(fps=fps, targets=((9, 9, 13, "red"), (21, 21, 24, "blue"), (33.5, 33.5, 37, "green")))
        score = score_episode(episode, floor_trace(episode, "oracle"), LexicalJudge())
        assert (score.S, score.E) == (1.0, 1.0)


def test_a_missing_verdict_is_none_in_s_and_e_and_never_zero(make_episode, make_trace):
    nobody = lambda question, golds, response: None  # noqa: E731
    nobody.name, nobody.prompt_hash = "nobody", None
    episode = make_episode()
    score = score_episode(episode, make_trace(episode, {10: "the kettle boils"}), nobody)
    assert (score.S, score.E, score.F, score.unscored) == (None, None, None, 1)
    # Too far from any target for the verdict to matter to S or E.
    apart = score_episode(episode, make_trace(episode, {4: "the kettle boils"}), nobody)
    assert (apart.S, apart.E, apart.unscored, apart.classes) == (0.0, 0.0, 1, {"unscored": 1})


def test_each_query_of_a_shared_stream_keeps_its_own_span_and_score(make_episode, make_trace):
    from evostreaming.eval.episodes import Query, Target

    one = make_episode(regime="RT", targets=((10, 10, 10, "red"),), t_q=10.0)
    both = replace(
        one,
        queries=(*one.queries, Query("later", 20.0, "And now?", "text")),
        targets=(*one.targets, Target("g9", "later", 20.0, (20, 20), "blue")),
    )
    score = score_episode(both, make_trace(both, {1: "hm", 5: "red", 10: "green"}), LexicalJudge())
    assert score.queries == {"q": 1.0, "later": 0.0}
    assert score.S == 0.5
    assert score.classes == {"hit": 1, "unsolicited": 1, "wrong": 1}
    # Said after the second query but meant for the first, which an explicit id can say.
    trace = make_trace(both, {10: "blue", 11: "red"})
    named = replace(trace, turns=tuple(t._replace(qid="q") if t.k == 11 else t for t in trace.turns))
    assert score_episode(both, named, LexicalJudge()).queries == {"q": 0.0, "later": 1.0}
    assert score_episode(both, named, LexicalJudge()).active_responses == 2
