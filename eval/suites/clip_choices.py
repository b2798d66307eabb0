"""Multiple choice on a clip, the record that OVBench and ODV-Bench share: `video, start, end, question, candidates, answer` (a text)."""

import re

from ..episodes import Episode, Query, Target

POST_PROMPT = "Answer with the option's letter from the given choices directly."

_STARTS_WITH = re.compile(r"^([A-E])\.")
_ANYWHERE = re.compile(r"\b[A-E]\b")


def choice_episode(record, suite, name, task, fps, tail_s, window_s, **meta):
    """One RT episode, asked at `end` with every frame from `start` on, or from `window_s` seconds before."""
    start, end, options = record.number("start"), record.number("end"), record.strings("candidates")
    if end < start:
        record.fail("end", f"is {end:g}, before start {start:g}")
    answer = record.text("answer")
    golds = [chr(65 + i) for i, option in enumerate(options) if option == answer]
    if not 2 <= len(options) <= 5 or not golds:
        record.fail("answer", f"{answer!r} is not among the 2 to 5 candidates expected, got {len(options)}")
    lines = "\n".join(f"({chr(65 + i)}) {option}" for i, option in enumerate(options))
    text = f"Question at {end:g}s: {record.text('question')}\nOptions:\n{lines}\n{POST_PROMPT}"
    if window_s is not None:
        start = max(start, end - window_s)
    return Episode(
        f"{suite}-{name}", suite, task, "RT", record.text("video"), start, end + tail_s, fps,
        (Query("q", end, text, "letter", options),), (Target("g0", "q", end, (end, end), golds[0], tuple(golds[1:])),),
        {"video_id": record.text("video"), "source_id": name, **meta},
    )  # fmt: skip


def picked(reply):
    """The letter that both benchmarks read from a reply ("A dog" is an A there), or None."""
    found = _STARTS_WITH.match(reply.strip()) or _ANYWHERE.search(reply)
    return found[0].rstrip(".") if found else None
