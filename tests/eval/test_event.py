"""The pieces of the event score at their edges."""

import pytest

from evostreaming.eval.event import event_score, freshness
from evostreaming.eval.primary import primary_score, tolerance


@pytest.mark.parametrize(("t", "worth"), [(19.9, 0), (20, 1), (25, 1), (30, 1), (31, 0.8), (34, pytest.approx(0.2)), (35, 0), (99, 0)])
def test_an_answer_is_worth_nothing_early_and_fades_late(t, worth):
    assert freshness(t, 20, 30) == worth


def test_epsilon_forgives_a_little_earliness_and_no_lambda_forgives_no_lateness():
    assert freshness(19.5, 20, 30, epsilon=0.5) == 1.0
    assert (freshness(30, 20, 30, lam=0), freshness(30.1, 20, 30, lam=0)) == (1.0, 0.0)


def test_a_half_right_answer_counts_half_and_anything_less_is_wrong():
    score = lambda verdict: event_score([(0, 9)], [5.0], [[verdict]], [True], [False])  # noqa: E731
    assert (score(0.5).score, score(0.5).classes) == (0.5, ("hit",))
    assert (score(0.49).score, score(0.49).classes) == (0.0, ("wrong",))


def test_of_two_equal_answers_the_earlier_one_is_the_hit():
    assert event_score([(0, 9)], [3.0, 5.0], [[1.0], [1.0]], [True] * 2, [False] * 2).match == {0: 0}


def test_a_response_before_any_query_is_unsolicited_even_if_it_would_be_right():
    event = event_score([(10, 20)], [5.0], [[0.0]], [False], [False])
    assert event.classes == ("unsolicited",)


def test_matching_one_to_one_lets_a_response_serve_one_target_only():
    near = ("FAR", [5, 6], [5], 20, 1, [[1.0, 1.0]])
    assert (primary_score(*near), primary_score(*near, matching="one2one")) == (1.0, 0.5)


def test_only_what_comes_before_the_first_tolerance_window_is_early():
    score = lambda k: primary_score("FAR", [10, 15], [k, 10, 15], 20, 1, [[1.0, 1.0]] * 3)  # noqa: E731
    assert (score(8), score(9), score(12)) == (0.9, 1.0, 1.0)


def test_the_tolerance_is_whole_turns_that_cover_two_seconds_and_none_where_the_answer_is_due_at_once():
    assert [tolerance("FAR", fps, 2.0) for fps in (0.5, 0.75, 1.0, 2.0)] == [1, 2, 2, 4]
    assert tolerance("RT", 2.0, 2.0) == tolerance("BT", 0.5, 2.0) == 0


def test_what_an_unmatched_response_is_called_goes_by_the_first_rule_that_fits():
    def called(t, verdict, solicited=True, duplicate=False):
        # Beside it stands a hit at 21 s in the window from 20 to 30 s; a second target is due from 60 s on.
        rows = sorted([(21.0, [1.0, 0.0], True, False), (t, verdict, solicited, duplicate)], key=lambda row: row[0])
        event = event_score([(20, 30), (60, 70)], *map(list, zip(*rows)))
        return event.classes[[row[0] for row in rows].index(t)]

    assert called(5, [1, 0], solicited=False, duplicate=True) == "unsolicited"
    assert called(25, [0, 0], duplicate=True) == "repeat", "said before, though wrong inside a window"
    assert called(10, [0, 1], duplicate=True) == "repeat", "said before, though early"
    assert called(25, [1, 0]) == "repeat", "the target has its answer already"
    assert called(50, [0, 1]) == "early"
    assert called(34, [0, 0]) == called(22, [0, 0.4]) == "wrong", "inside a window or its fading"
    assert called(40, [0, 0]) == called(76, [0, 0]) == "spurious"
