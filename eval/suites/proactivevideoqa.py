"""ProactiveVideoQA: `<root>/<TASK>/anno.json` for WEB, EGO, TV and VAD; its score PAUC.

Every answer turn is a target: due from its `related_timespan`, fresh during its `reply_timespan`. Only the question enters the stream; the
subtitles that TV has as further user turns are kept in `meta.subtitles`.
"""

from pathlib import Path

from ..episodes import Episode, Query, Target
from ..records import read_records
from .catalog import find_file
from .replies import replies, scored

TASKS = ("WEB", "EGO", "TV", "VAD")
OMEGAS = (0.0, 0.5, 1.0)
SILENT_SCORE = 0.5  # of 2: silence is worth a quarter, a wrong answer nothing
BLIND = {"always silent": 25.0}  # percent, for every omega


def read(path, fps=0.5):
    """Episodes of one `anno.json`, whose folder is its task, or of all tasks below a folder."""
    path = Path(path)
    files = [path] if path.is_file() else [path / t / "anno.json" for t in TASKS if (path / t / "anno.json").is_file()]
    return [_episode(record, file.parent.name, fps) for file in files or [find_file(path, "anno.json")] for record in read_records(file)]


def official(episodes, traces, judge):
    """PAUC in percent, the mean over answer turns: `{task: {"0": ..., "0.5": ..., "1": ...}}` by its weight omega (0.5 is the headline).

    A task is None while a verdict is missing."""
    turns = {}
    for episode, trace in scored(episodes, traces):
        said = replies(episode, trace)
        for target, related_end in zip(episode.targets, episode.meta["related_ends"]):
            points = _points(said, target, related_end, episode.queries[0].text, judge)
            turns.setdefault(episode.task, []).append(points and [pauc(target.window, points[0], omega) for omega in OMEGAS])
    return {
        task: None if None in rows else {f"{omega:g}": 100 * sum(column) / len(rows) for omega, column in zip(OMEGAS, zip(*rows))}
        for task, rows in sorted(turns.items())
    }  # fmt: skip


def pauc(span, points, omega=0.5):
    """Area under the score of one answer turn, 0..1. `points` `[(seconds, 0..2)]`: a score obtained t seconds in counts from
    t (1 - omega) on, so omega 1 forgives all delay."""
    begin, end = span
    x, level, area = 0.0, SILENT_SCORE, 0.0
    for t, score in sorted(points):
        at = (t - begin) * (1 - omega)
        area += (at - x) * level
        x, level = at, score
    return (area + (end - begin - x) * level) / (2 * (end - begin))


def _points(said, target, related_end, question, judge):
    """`([(seconds, score)],)` of the replies within the turn, each judged together with those before; None if a verdict is missing."""
    begin, end = target.window
    texts, points, best_in_span = [], [], None
    for t, text in said:
        if not begin <= t <= end or text in texts:
            continue
        texts.append(text)
        verdict = judge(question, (target.answer, *target.aliases), " ".join(texts))
        if verdict is None:
            return None
        score = 2 * verdict
        if t <= related_end:
            best_in_span = score
        elif best_in_span is not None and score < best_in_span:
            continue
        points.append((t, score))
    return (points,)


def _episode(record, task, fps):
    duration, turns = record.number("duration"), [turn for turn in record.records("conversation") if turn.text("role") == "user"]
    if not turns:
        record.fail("conversation", "has no user turn: there is no question")
    asked, targets, related_ends = turns[0].number("time"), [], []
    for i, answer in enumerate(record.records("answer")):
        related, reply = answer.numbers("related_timespan", 2), answer.numbers("reply_timespan", 2)
        if reply[1] <= reply[0]:
            answer.fail("reply_timespan", f"{list(reply)} is not a span of time")
        targets.append(Target(f"g{i}", "q", related[0], reply, answer.text("content")))
        related_ends.append(related[1])
    meta = {"video_id": record.text("video"), "source_id": record.text("question_id"), "related_ends": related_ends}
    if turns[1:]:
        meta["subtitles"] = [[turn.number("time"), turn.text("content")] for turn in turns[1:]]
    return Episode(
        f"proactivevideoqa-{task}-{record.text('question_id')}", "proactivevideoqa", task, "FAR", f"{task}/videos/{record.text('video')}",
        0.0, max([duration, *(target.window[1] for target in targets)]), fps,
        (Query("q", asked, turns[0].text("content"), "text"),), tuple(targets), meta,
    )  # fmt: skip
