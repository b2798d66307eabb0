"""When a question is put in a trajectory, and at which turns the policy is heard.

Questions about the past or the present are put when they can be answered, and answered at once. Questions that wait for something (AM),
count along (TA) or follow a procedure (DED) are put early and answered when there is something new; a quarter of the latter two are put
late instead, as users do both.
"""

from dataclasses import dataclass

WAITING = ("AM", "TA", "DED")
AT_ONCE = ("IV", "MD")
REMEMBERING = ("MD", "TA", "DED")  # their answers rest on what was seen before, which pruning therefore keeps
EARLY = 0.75  # share of counts and procedures that are asked for before there is anything to say
LOCAL = ("IV", "DED")  # their answers hold for the moment; the others' for all that was seen


@dataclass(frozen=True)
class Plan:
    """One trajectory to be: `question` rides with frame `ask`; `hear`: turns at which the policy is asked; `baseline`: whether the answer
    at `ask` is only what later answers are compared with; `segment`: for local answers, which segment each turn lies in; `others`: wrong
    options that the answer is tried against; `lettered`: whether the question is also put with them."""

    question: str
    category: str
    ask: int
    hear: tuple
    baseline: bool
    segment: dict
    quiet: bool = False
    others: tuple = ()
    lettered: bool = False


def plan(rng, question, category, relevant, segments, others=(), choices=0.0):
    """A `Plan`, or the reason (str) why there is none. relevant: bool a segment; segments: places of the frames in each; others: other
    answers to the question; choices: share of the questions with such that are put with options, if they are answered at once."""
    segment = {place: index for index, part in enumerate(segments) for place in part}
    turns = sorted(place for index, part in enumerate(segments) if relevant[index] for place in part)
    last = max(segment)
    if not turns:
        return "no relevant segment"
    if category in WAITING and (category == "AM" or rng.random() < EARLY):
        ask = rng.randint(0, max(turns[0] - 1, 0))
        # What is said to have happened when it is asked to be told cannot be waited for: it is no reply, and repeating it says nothing new.
        baseline = category == "AM" or ask not in turns
        return Plan(question, category, ask, tuple(t for t in turns if t > ask), baseline, segment)
    ask = rng.randint(turns[0], last) if category == "MD" else rng.choice(turns)
    lettered = bool(others) and rng.random() < choices
    hear = tuple(t for t in turns if t > ask) if category == "IV" and not lettered else ()
    return Plan(question, category, ask, hear, False, segment, others=tuple(others), lettered=lettered)


def quiet_plan(rng, question, relevant, segments):
    """A `Plan` of a stream in which nothing is to be said, or the reason why it is none: part of it is relevant."""
    if any(relevant):
        return "the foreign question is relevant here"
    segment = {place: index for index, part in enumerate(segments) for place in part}
    return Plan(question, "AM", rng.randint(0, max(segment) // 2), (), True, segment, quiet=True)
