"""Deterministic verdicts and the lexical judge: RSE-1.0 section 6."""

import pytest

from evostreaming.eval import answers
from evostreaming.eval.episodes import Query
from evostreaming.eval.judges import LexicalJudge, judge

OPTIONS = ("A. a red mug", "B. a blue mug", "C. nothing", "D. nothing")


@pytest.mark.parametrize(
    ("response", "picked"),
    [
        ("B", "B"), ("(C) nothing", "C"), (" b", None), ("B.", "B"), ("B: it is blue", "B"), ("** D) **", "D"), ("a red mug", "A"),
        ("A Red Mug!", "A"), ("nothing", None), ("I think B", None), ("It is B, a blue mug", None), ("Answer", None), ("ABCDE", None),
        ("E", None), ("I", None), ("the red mug", "A"), ("mug", None), ("", None),
    ],
)  # fmt: skip
def test_letter(response, picked):
    assert answers.letter(response, OPTIONS) == picked


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("3", 3),
        ("Three.", 3),
        ("3, three!", 3),
        ("3 of 4", None),
        ("twenty", 20),
        ("none", None),
        ("someone", None),
        ("it is 12 now", 12),
        ("1 2", None),
        ("9" * 5000, None),
    ],
)
def test_integer(response, value):
    assert answers.integer(response) == value


@pytest.mark.parametrize(
    ("response", "said"), [("Yes, it is", "yes"), ("y", "yes"), ("NO.", "no"), ("not yet", None), ("it is yes", None), ("", None)]
)
def test_yes_no(response, said):
    assert answers.yes_no(response) == said


@pytest.mark.parametrize(
    ("response", "gold", "score"),
    [
        ("Now she walks past the car.", "She walks past the car", 1.0),
        ("she runs past the car", "She walks past the car", 1.0),
        ("she runs to a car", "she walks past the car", 0.5),
        ("a dog", "She walks past the car.", 0.0),
        ("the", "The car", 0.0),
        ("倒面粉", "倒面粉", 1.0),
        ("加入面粉", "倒面粉", 0.5),
        ("!", "!", 1.0),
        ("?", "!", 0.0),
    ],
)
def test_lexical(response, gold, score):
    assert answers.lexical(response, gold) == score


def test_the_best_of_answer_and_aliases_counts():
    query = Query("q", 0.0, "?", "text")
    assert judge("a kitten", query, ("cat", "kitten"), LexicalJudge()) == 1.0
    assert judge("3", Query("q", 0.0, "?", "int"), ("2", "3"), LexicalJudge()) == 1.0
    assert judge("No", Query("q", 0.0, "?", "yesno"), ("no",), LexicalJudge()) == 1.0
    assert judge("", Query("q", 0.0, "?", "yesno"), ("no",), LexicalJudge()) == 0.0


def test_a_benchmark_may_demand_the_gold_word_for_word():
    query = Query("q", 0.0, 'Output "Break point"', "text")
    assert judge("It's break point!", query, ("Break point",), LexicalJudge(), rule="contains") == 1.0
    assert judge("point of the break", query, ("Break point",), LexicalJudge(), rule="contains") == 0.0
