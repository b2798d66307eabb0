"""Times to turns, at the edges."""

import pytest

from evostreaming.eval.discretize import Grid, grid, spans


@pytest.mark.parametrize(("t_end", "fps", "n"), [(38, 0.5, 20), (39.9, 0.5, 20), (40, 0.5, 21), (0, 0.5, 1), (0.9999999, 1, 2), (5, 2, 11)])
def test_number_of_turns(make_episode, t_end, fps, n):
    assert grid(make_episode(targets=(), t_end=t_end, fps=fps)).n == n


def test_before_and_after_round_apart_between_turns_and_agree_on_them():
    turns = Grid(10.0, 0.5, 5)
    assert [(turns.before(t), turns.after(t)) for t in (10, 11, 12, 12.0000001, 17.9999999)] == [(0, 0), (0, 1), (1, 1), (1, 1), (4, 4)]
    assert (turns.before(3), turns.after(99), turns.time(4)) == (0, 4, 18.0)


def test_a_query_enters_with_the_last_frame_not_after_it_and_a_target_is_due_at_the_first_not_before(make_episode):
    (span,) = spans(make_episode(t_q=7.0, targets=((21, 21, 30),)))
    assert (span.first, span.last, span.turns, span.goals[0].k) == (3, 19, 17, 11)


def test_rt_and_bt_are_due_with_the_query_and_never_early_there(make_episode):
    for regime in ("RT", "BT"):
        (span,) = spans(make_episode(regime=regime, t_q=7.0, targets=((7, 7, 7),)))
        assert (span.goals[0].k, span.goals[0].window) == (3, (6.0, 7))


def test_targets_of_one_turn_merge_and_the_last_answer_holds(make_episode):
    (span,) = spans(make_episode(targets=((20, 20, 22, "2"), (19, 19, 20, "1"), (30, 30, 31, "3")), form="int"))
    assert [(g.k, g.golds, g.window, g.gids) for g in span.goals] == [(10, ("2",), (19, 22), ("g1", "g0")), (15, ("3",), (30, 31), ("g2",))]


def test_a_target_before_its_query_or_after_the_end_is_clipped_into_the_span(make_episode):
    (span,) = spans(make_episode(t_q=10.0, targets=((2, 2, 4), (99, 99, 99))))
    assert [g.k for g in span.goals] == [5, 19]
