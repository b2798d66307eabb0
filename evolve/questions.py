"""Stage 2: the model asks questions of a category about a video it has seen whole. What is no use is refused and counted."""

import random
import re
from collections import Counter

from .plans import AT_ONCE
from .stage import Skip, each, run_stage, sound
from .wording import normalized

DRAWS = 3  # samples for each question wanted
SHARED = {"yes", "no", "nothing", "none", "unknown"}  # answers that many questions have
OTHERS = 3  # videos beside it that a question is put to as well, for wrong options to it


def write_questions(crew, rows, out, progress=None):
    """Rows {"video", "category", "questions": [{"text", "answer", "others"}], "borrowed", "refused": {reason: count}}.

    answer: after the whole video; others: what the model answers to the same question after other videos, for stage 4 to offer as options;
    borrowed: a question of another video with the answer after this one and its "category", or null.
    """
    return run_stage("questions", rows, out, crew, invent, (), progress)


def invent(roles, items):
    """{video: row or Skip} of a group."""
    made, settings = each(items, lambda item: roles.frames(item["video"])), roles.settings
    there = sound(items, made)
    with roles.watching() as watch:
        streams = watch([made[item["video"]] for item in there])
        topics = [roles.prompts.topics[item["category"]] for item in there]
        rng = random.Random(f"ask {settings.seed} {roles.number} {items[0]['video']}")
        drawn = [roles.ask(streams, topics, rng.getrandbits(31)) for _ in range(DRAWS * settings.questions)]
        kept = [well_formed([text.strip() for text in texts]) for texts in zip(*drawn)]
        pairs = [(stream, text) for stream, (texts, _) in zip(streams, kept) for text in texts]
        answers = iter(roles.answer([stream for stream, _ in pairs], [text for _, text in pairs]))
        for item, (texts, refused) in zip(there, kept):
            questions = []
            for text, answer in zip(texts, [next(answers) for _ in texts]):
                reason = roles.no_answer(answer) or (leaks(text, answer) and "leaks the answer")
                reason = reason or (evades(text, answer) and "answered with what it does not offer")
                if reason:
                    refused[reason] += 1
                elif len(questions) < settings.questions:
                    questions.append({"text": text, "answer": answer, "others": []})
            row = {"video": item["video"], "category": item["category"], "questions": questions, "borrowed": None, "refused": dict(refused)}
            made[item["video"]] = row if questions else Skip(f"no question of {len(drawn)} was usable: {dict(refused)}")
        rows = {item["video"]: made[item["video"]] for item in there if not isinstance(made[item["video"]], Skip)}
        offer(roles, rows, {item["video"]: stream for item, stream in zip(there, streams)}, rng)
    return made


def offer(roles, rows, streams, rng):
    """Put each row's questions to the streams of other videos. The different answers become `others` of the question; and each of those
    videos borrows the first such question, so that what is asked is not always there."""
    asked = []
    for video, row in rows.items():
        beside = [other for other in streams if other != video]
        for question in row["questions"] if row["category"] != "AM" else ():
            asked += [(row["category"], question, other) for other in rng.sample(beside, min(OTHERS, len(beside)))]
    answers = roles.answer([streams[other] for _, _, other in asked], [question["text"] for _, question, _ in asked])
    for (category, question, other), answer in zip(asked, answers):
        if roles.no_answer(answer) or evades(question["text"], answer):
            continue
        if category in AT_ONCE and rows.get(other, {}).get("borrowed", 0) is None:
            wrong = [question["answer"]] if normalized(answer) != normalized(question["answer"]) else []
            rows[other]["borrowed"] = {"text": question["text"], "answer": answer, "others": wrong, "category": category}
        if normalized(answer) not in {normalized(known) for known in (question["answer"], *question["others"])}:
            question["others"].append(answer)


def well_formed(texts):
    """(questions of these texts, none twice; a Counter of the reasons against the others)."""
    kept, refused, seen = [], Counter(), set()
    for text in texts:
        if not is_question(text):
            refused["malformed"] += 1
        elif normalized(text) in seen:
            refused["duplicate"] += 1
        else:
            seen.add(normalized(text))
            kept.append(text)
    return kept, refused


def is_question(text):
    """One line that begins with a capital and ends as a question or a request, of 3 to 40 words, and offers no choice of one thing."""
    same = re.search(r"\b(\w+ \w.*) or \1$", normalized(text))
    return bool(re.fullmatch(r"[A-Z][^\n]*[?.]", text)) and 3 <= len(text.split()) <= 40 and not same


def evades(question, answer):
    """Whether a question offers a choice, "this or that", and the answer is neither."""
    asked, answer = normalized(question), normalized(answer)
    return " or " in asked and answer not in SHARED and answer not in asked


def leaks(question, answer):
    """Whether the words of the answer stand in the question. Answers that many questions have (yes, no, a digit) cannot leak, nor can
    one of two things that the question offers."""
    answer, question = normalized(answer), f" {normalized(question)} "
    return bool(answer) and answer not in SHARED and not answer.isdigit() and " or " not in question and f" {answer} " in question
