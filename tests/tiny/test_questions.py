"""Every question has the answer that the event list gives, at the time it gives it."""

import random

import pytest

from evostreaming.tiny.corpus import conversation, single
from evostreaming.tiny.evaluate import SCORED, TOLD
from evostreaming.tiny.exchanges import is_relevant
from evostreaming.tiny.questions import TASKS, Asker
from evostreaming.tiny.wordings import HELD_OUT, TRAIN
from evostreaming.tiny.world import Scene


def askers(count, split="test"):
    rng = random.Random(3)
    for seed in range(count):
        scene = Scene(seed, split)
        t1 = rng.uniform(2, scene.duration - 0.3)
        if scene.settled(t1):
            yield Asker(scene, 0.5, t1)


def test_counts_are_the_number_of_events_begun():
    seen = 0
    for asker in askers(300):
        for q in asker.ask("count"):
            name, act = dict(q.fill)["name"], dict(q.fill)["act"]
            who = next(t.number for t in asker.scene.things if t.name(asker.t1) == name)
            events = [e for e in asker.scene.events if e.who == who and e.kind == act and e.start < asker.t1]
            assert int(q.answer) == len(events)
            seen += 1
    assert seen > 50


def test_the_sign_shows_the_last_digit_and_counts_on_in_its_own_direction():
    for asker in askers(300):
        for q in asker.ask("sign"):
            assert q.answer == str([d for since, d in asker.scene.digits if since <= asker.t1][-1])
        for q in asker.ask("next_sign"):
            step = {"up": 1, "down": -1}[asker.scene.sign_mode]
            assert int(q.answer) == int(asker.ask("sign")[0].answer) + step


def test_a_question_never_knows_the_future():
    """`tell` and `happened` say yes only of what has begun, and `since` never lies after the time of asking."""
    told = 0
    for asker in askers(300):
        for task in TASKS:
            for q in asker.ask(task):
                assert q.since <= asker.t1 + 1e-6, q
        begun = [e for e in asker.scene.events if e.start < asker.t1]
        for q in asker.ask("tell"):
            told += q.answer != "Not yet."
            assert q.answer == "Not yet." or begun
    assert told > 20


def test_wrong_options_never_contain_the_answer_twice():
    rng = random.Random(0)
    for task in SCORED:
        for _ in range(30):
            talk = single(rng, "test", task, 8, held_out=True)
            if talk and talk.exchanges[0].form == "letter":
                assert len(set(talk.exchanges[0].options)) == len(talk.exchanges[0].options)


@pytest.mark.parametrize("task", [*SCORED, *TOLD])
def test_wordings_kept_back_are_not_training_wordings(task):
    assert not set(HELD_OUT[task]) & set(TRAIN[task])


def test_relevance_follows_the_evidence():
    scene = next(s for s in (Scene(i, "test", "repeat") for i in range(50)) if any(e.kind == "jump" for e in s.events))
    question = next(q for q in Asker(scene, 0.5, scene.duration - 0.3).ask("count") if dict(q.fill)["act"] == "jump")
    a, b = question.evidence[0]
    assert is_relevant(question, [(a + b) / 2]) is True
    assert is_relevant(question, [b + 1.2]) is False
    assert is_relevant(question, [a + 0.1]) is None


def test_the_corpus_never_speaks_of_silence():
    rng = random.Random(1)
    for _ in range(400):
        for piece in conversation(rng, "train", rng.choice((1, 4, 16))).pieces:
            if piece:
                assert "silen" not in piece[0].lower() and "standby" not in piece[0].lower()


def test_every_assistant_turn_of_the_corpus_answers_something():
    """No empty turn and no turn that only waits: each learned piece is one exchange's answer."""
    rng = random.Random(2)
    for _ in range(200):
        talk = conversation(rng, "train", rng.choice((1, 4, 12)))
        learned = [p[0] for p in talk.pieces if p and p[1]]
        assert learned == [one.answer + "<|im_end|>" for one in talk.exchanges]
        assert all(one.answer for one in talk.exchanges)


def test_conversations_are_drawn_from_many_scenes():
    rng = random.Random(4)
    assert len({conversation(rng, "train", 2).scene.seed for _ in range(200)}) == 200
