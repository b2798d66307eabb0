"""Inf-Streams-Eval (StreamingVLM): `eval_all_metadata.jsonl`, commentary on whole games of two hours and more.

The benchmark's own judge says which of two texts on a stretch is the better commentary, in both orders. `official` is the verdict on every
stretch by this run's judge; with another model's texts it compares, too (`commentary.against`). `predictions` gives the lines that the
benchmark's own judge reads, `official_win_rate` the score from its answers.
"""

import math

from ..episodes import Episode, Query, Target
from ..errors import SchemaError
from ..pairwise import LIVELIER
from ..records import read_jsonl
from .catalog import find_file
from .commentary import judged, win_rate
from .replies import replies

ANNOTATION = "eval_all_metadata.jsonl"
CONTEST = LIVELIER
STRETCH_S = 100.0  # what is judged as one text, the chunk of the benchmark
PROMPT = "You are the commentator of this live video: {title}. Say what happens, as it happens.{before}"


def read(path, fps=1.0, stretch_s=STRETCH_S):
    """FAR episodes, one a game, from the first word of its commentary to the last; a target is all that was said in `stretch_s` seconds."""
    return [_episode(record, fps, stretch_s) for record in read_jsonl(find_file(path, ANNOTATION))]


def official(episodes, traces, judge):
    """`{"verdict": percent}`: mean verdict on the commentary of a stretch."""
    return {"verdict": judged(episodes, traces, judge)}


def references(episodes):
    """`{(video, number of the stretch): what was said on air}`."""
    return {(_name(e.video), i): target.answer for e in episodes for i, target in enumerate(e.targets)}


def passages(episodes, rows):
    """`{(video, number of the stretch): text}` of predictions, for the stretches that they cover, in whole seconds as in the benchmark."""
    known, found = {_name(episode.video): episode for episode in episodes}, {}
    for row in rows:
        episode = known.get(_name(row.text("video")))
        begin, end = int(row.number("chunk_start")), int(row.number("chunk_end"))
        said = [(int(item.number("end_time")), item.text("response", None) or item.text("text", "")) for item in row.records("items")]
        for i, target in enumerate(episode.targets if episode else ()):
            first, last = map(int, target.window)
            if begin <= first and last <= end:
                found[_name(episode.video), i] = " ".join(text.strip() for t, text in said if first < t <= last and text.strip())
    return found


def predictions(episodes, traces):
    """`{"video", "chunk_start", "chunk_end", "items"}` of every game that was run; an item is what was said on one turn."""
    rows = []
    for episode in episodes:
        trace = traces.get(episode.episode_id)
        if trace is not None and trace.err is None:
            said = [{"start_time": t, "end_time": t + 1 / episode.fps, "text": text} for t, text in replies(episode, trace)]
            rows.append({"video": episode.video, "chunk_start": episode.t_start, "chunk_end": episode.t_end, "items": said})
    return rows


def official_win_rate(answers):
    """Win rate in percent from the judge's raw answers: for each stretch a pair, (shown first as A, shown second as B).

    As in the benchmark, whatever does not start with "A" is read as "B".
    """
    return win_rate([(first.strip().startswith("A"), not second.strip().startswith("A")) for first, second in answers])


def _name(video):
    return video.rsplit("/", 1)[-1]


def _episode(record, fps, stretch_s):
    video, pieces, backward = record.text("video"), [], 0
    for i, item in enumerate(record.items("content")):
        if not (isinstance(item, list) and len(item) == 3 and isinstance(item[2], str) and all(map(_is_number, item[:2]))):
            record.fail(f"content[{i}]", "expected [start, end, text]")
        if item[0] > item[1]:
            backward += 1  # some of the release end before they begin: there is no telling when they were said
        elif item[2].strip():
            pieces.append((float(item[0]), float(item[1]), item[2].strip()))
    if not pieces:
        raise SchemaError(record.path, record.place, "content", "holds no commentary")
    start, end = float(math.floor(min(p[0] for p in pieces))), float(math.ceil(max(p[1] for p in pieces)))
    before = record.text("preasr", "")
    text = PROMPT.format(title=record.text("title", "a game"), before=f" Said so far: {before}" if before else "")
    targets = []
    for k in range(max(1, math.ceil((end - start) / stretch_s))):
        a, b = start + k * stretch_s, min(start + (k + 1) * stretch_s, end)
        said = " ".join(words for at, _, words in sorted(pieces) if a <= at < b or (at == b == end))
        if said:
            targets.append(Target(f"g{k}", "q", b, (a, b), said))
    return Episode(
        f"infstreams-{video}", "infstreams", "commentary", "FAR", video, start, end, fps, (Query("q", start, text, "text"),),
        tuple(targets), {"video_id": video, "pieces_that_end_before_they_begin": backward},
    )  # fmt: skip


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)
