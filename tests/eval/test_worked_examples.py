"""The table of RSE-1.0 section 9, end to end from episode and trace to S and E."""

import pytest

from evostreaming.eval.event import event_score
from evostreaming.eval.floors import AssumeRight
from evostreaming.eval.judges import LexicalJudge
from evostreaming.eval.primary import verbosity_factor
from evostreaming.eval.scoring import score_episode

RIGHT = "the kettle boils"


@pytest.mark.parametrize(
    ("turns", "s", "precision", "recall", "e"),
    [
        ([], 0.0, 0, 0, 0.0),
        ([10], 1.0, 1, 1, 1.0),
        ([4, 10], 0.9, 0.5, 1, 0.6667),
        ([4], 0.0, 0, 0, 0.0),
        ([1, 4, 7, 10, 13, 16, 19], 0.9, 0.1429, 1, 0.25),
        ([1, 4, 7, 10, 13, 16, 18, 19], 0.5, 0.125, 1, 0.2222),
        (list(range(20)), 0.1, 0.05, 1, 0.0952),
        ([16], 0.0, 0.6, 0.6, 0.6),
    ],
    ids=["silent", "on time", "early and on time", "early only", "7 of 20", "8 of 20", "every turn", "2 s after the window"],
)
def test_one_target_in_twenty_turns(make_episode, make_trace, turns, s, precision, recall, e):
    episode = make_episode()
    score = score_episode(episode, make_trace(episode, dict.fromkeys(turns, RIGHT)), LexicalJudge())
    assert (pytest.approx(s, abs=5e-5), pytest.approx(e, abs=5e-5)) == (score.S, score.E)
    assert (score.precision, score.recall) == (pytest.approx(precision, abs=5e-5), pytest.approx(recall, abs=5e-5))


def test_a_wrong_answer_inside_the_window_is_worth_nothing_and_called_wrong(make_episode, make_trace):
    episode = make_episode()
    score = score_episode(episode, make_trace(episode, {10: "the cat sleeps"}), LexicalJudge())
    assert (score.S, score.E, score.classes) == (0.0, 0.0, {"wrong": 1})


def test_an_early_right_answer_is_called_early(make_episode, make_trace):
    episode = make_episode()
    assert score_episode(episode, make_trace(episode, {4: RIGHT}), LexicalJudge()).classes == {"early": 1}
    assert score_episode(episode, make_trace(episode, {4: RIGHT, 10: "yes, " + RIGHT}), LexicalJudge()).classes == {"hit": 1, "early": 1}


def test_chatter_is_called_early_before_the_hit_and_repeat_after_it(make_episode, make_trace):
    episode = make_episode()
    said = {k: f"number {k}: {RIGHT}" for k in (1, 4, 7, 10, 13, 16, 19)}
    assert score_episode(episode, make_trace(episode, said), LexicalJudge()).classes == {"early": 3, "hit": 1, "repeat": 3}


def test_an_immediate_repeat_halves_an_rt_answer(make_episode, make_trace):
    episode = make_episode(regime="RT", targets=((30, 30, 30),), t_q=30.0, form="letter")
    assert score_episode(episode, make_trace(episode, {15: "B"}), LexicalJudge()).S == 1.0
    assert score_episode(episode, make_trace(episode, {15: "B", 16: "B) dog"}), LexicalJudge()).S == 0.5
    assert score_episode(episode, make_trace(episode, {15: "B", 16: "C"}), LexicalJudge()).S == 1.0
    assert score_episode(episode, make_trace(episode, {16: "B"}), LexicalJudge()).S == 0.0


def test_counting_with_a_duplicate_and_a_spurious_response(make_episode, make_trace):
    targets = ((6, 4, 6, 1), (12, 10, 12, 2), (22, 20, 22, 3))
    episode = make_episode(targets=[(*t[:3], str(t[3])) for t in targets], form="int", fps=1.0)
    score = score_episode(episode, make_trace(episode, {6: "1", 12: "2", 13: "2", 30: "9"}), LexicalJudge())
    assert (score.precision, score.recall, score.E) == (0.5, pytest.approx(2 / 3), pytest.approx(0.5714, abs=5e-5))
    assert score.classes == {"hit": 2, "repeat": 1, "spurious": 1}


def test_unclipped_penalty_never_shows_as_a_negative_score(make_episode, make_trace):
    episode = make_episode()
    assert score_episode(episode, make_trace(episode, {4: RIGHT}), AssumeRight()).S == 0.0


def test_verbosity_factor_table_is_exact():
    assert [verbosity_factor(n, 10) for n in range(11)] == [1, 1, 1, 1, 0.6, 0.6, 0.4, 0.4, 0.2, 0.2, 0.2]
    assert (verbosity_factor(39, 100), verbosity_factor(2, 5), verbosity_factor(3, 5)) == (1.0, 0.6, 0.4)


def test_a_discounted_repeat_would_break_monotonicity_so_every_response_costs_one():
    event = event_score([(0, 0), (10, 10)], [0.0, 14.75], [[1, 0], [1, 0]], [True, True], [False, True])
    assert event.score == 0.5
    assert event_score([(0, 0), (10, 10)], [0.0, 14.75], [[1, 0], [1, 1]], [True, True], [False, True]).score == pytest.approx(0.525)


def test_figure_profile_adds_and_subtracts(make_episode, make_trace):
    episode = make_episode(targets=((10, 10, 14, "red"), (30, 30, 34, "blue")))
    score = lambda said: score_episode(episode, make_trace(episode, said), LexicalJudge()).F  # noqa: E731
    assert score({5: "red", 15: "blue"}) == pytest.approx((2 - 2 * 0.05) / 2)
    assert score({5: "red", 15: "blue", 10: "green"}) == pytest.approx((2 - 1 - 3 * 0.05) / 2)
    assert score({10: "green"}) == 0.0
    assert score({}) == 0.0
