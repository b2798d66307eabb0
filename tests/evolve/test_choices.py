"""Questions with options made of the model's own answers, questions borrowed from other videos, and what is rehearsed of offline use."""

import random
from contextlib import contextmanager

from evostreaming.evolve.plans import Plan, plan
from evostreaming.evolve.questions import evades, is_question, offer
from evostreaming.evolve.rollout import Choice, rehearsals, watch_and_answer
from evostreaming.evolve.settings import Settings
from evostreaming.evolve.wording import Prompts

SEGMENTS = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


class Answers:
    """Roles whose streams are names and whose answers are looked up; what a `Roles` needs in stages 2 and 4 without frames."""

    def __init__(self, table, **settings):
        self.table, self.settings, self.number, self.prompts, self.asked = table, Settings(**settings), 1, Prompts.read(), []

    def answer(self, streams, questions):
        self.asked += questions
        return [self.table(stream, question) for stream, question in zip(streams, questions)]

    def no_answer(self, text):
        return None if text else "no answer"

    @contextmanager
    def watching(self):
        yield lambda shown: [f"stream {i}" for i in range(len(shown))]

    def show(self, turns):
        pass


def row_of(category, *texts):
    questions = [{"text": text, "answer": f"own {text}", "others": []} for text in texts]
    return {"category": category, "questions": questions, "borrowed": None}


def test_other_videos_give_a_question_its_wrong_options_and_borrow_it():
    said = {("b", "Where?"): "left", ("c", "Where?"): "Left.", ("d", "Where?"): "own where", ("a", "How many?"): "2"}
    rows = {"a": row_of("IV", "Where?"), "b": row_of("AM", "Tell me when."), "c": row_of("TA", "How many?"), "d": row_of("MD")}
    offer(Answers(lambda stream, text: said.get((stream, text), "")), rows, {video: video for video in rows}, random.Random(0))
    (where,), (tell,), (count,) = (rows[video]["questions"] for video in "abc")
    assert len(where["others"]) == 1 and where["others"][0] in ("left", "Left."), "the same in other letters is one option, its own is none"
    assert tell["others"] == [] and count["others"] == ["2"]
    assert rows["b"]["borrowed"] == {"text": "Where?", "answer": "left", "others": ["own Where?"], "category": "IV"}
    assert rows["d"]["borrowed"] == {"text": "Where?", "answer": "own where", "others": [], "category": "IV"}
    assert rows["a"]["borrowed"] is None, "a count is not borrowed"


def test_options_are_offered_only_where_a_question_is_answered_at_once():
    def drawn(category, choices):
        return [plan(random.Random(i), "Q?", category, [True] * 5, SEGMENTS, ["a", "b"], choices) for i in range(60)]

    assert all(made.lettered and made.hear == () for category in ("IV", "MD") for made in drawn(category, 1.0))
    assert not any(made.lettered for category in ("IV", "MD", "AM") for made in drawn(category, 0.0))
    assert all(made.others == ("a", "b") for category in ("IV", "MD") for made in drawn(category, 0.0)), "the answer is tried all the same"
    assert not any(made.others for made in drawn("AM", 1.0))
    assert {made.lettered for made in drawn("TA", 1.0)} == {True, False}, "late ones alone"


def test_a_choice_is_between_its_own_answer_and_the_others_and_replied_to_with_a_letter():
    def say(stream, question):
        lines = question.split("\n")
        return "red" if len(lines) == 1 else next(line[0] for line in lines if line.endswith(". red"))

    roles, shown = Answers(say, consistency=False), {"v": ([0, 1], [0.0, 2.0])}
    said = watch_and_answer(roles, shown, {"v": [Plan("Which color?", "IV", 1, (), False, {0: 0, 1: 0}, others=("Red", "blue", "green"))]})
    choice = said["v", 0, "choice"]
    question, *options, instruction = choice.text.split("\n")
    assert question == "Which color?" and sorted(line[3:] for line in options) == ["blue", "green", "red"] and instruction
    assert choice.said == choice.right == next(line[0] for line in options if line.endswith("red"))
    alone = watch_and_answer(roles, shown, {"v": [Plan("Which color?", "IV", 1, (), False, {0: 0, 1: 0}, others=("Red",))]})
    assert ("v", 0, "choice") not in alone, "one option is no choice"


def test_what_the_model_answers_offline_is_rehearsed_with_the_last_frame(make_roles):
    roles, times, key = make_roles(), [0.0, 2.0], ("v", 0)
    watched = Plan("Q?", "IV", 1, (), False, {}, others=("blue",), lettered=True)

    def told(each, **said):
        return rehearsals(
            roles, times, each, {(*key, {"last": None, "choice": "last choice", "ask": 0}[n]): x for n, x in said.items()}, key
        )

    ((_, turns),) = told(watched, last="red")
    assert turns == [{"t": 0.0, "reply": None}, {"t": 2.0, "query": "Q?", "reply": "red"}]
    ((_, turns),) = told(watched, last="red", choice=Choice("Q with options", "B", "b"))
    assert turns[-1] == {"t": 2.0, "query": "Q with options", "reply": "B"}
    ((_, turns),) = told(watched, last="red", choice=Choice("Q with options", "B", "A"))
    assert turns[-1]["reply"] == "red", "an option that is not its answer is not taught"
    assert told(watched, last="") == told(watched, last="SILENT") == []
    waited = Plan("Q?", "AM", 0, (1,), True, {})
    (_, after), (_, before) = told(waited, ask="Not yet.", last="It came.")
    assert before == [{"t": 0.0, "query": "Q?", "reply": "Not yet."}] and after[-1]["reply"] == "It came."


def test_a_question_offers_two_things_and_is_answered_with_one_of_them():
    assert not is_question("Which came first, the star left or the star left?")
    assert is_question("Which came first, the star left or the ring left?") and is_question("Is it red or not red?")
    assert evades("Which came first, the star left or the ring left?", "the cross left")
    assert not evades("Which came first, the star left or the ring left?", "The ring left.")
    assert not evades("Is it left or right?", "no") and not evades("What is it?", "red")
