"""OmniMMI (CVPR 2025), its six files: state grounding, multi-turn dependency, speaker, action, proactive alerting and turn-taking.

Grounding (SG) and dependency (MD) are conversations: one stream with several queries. Alerting (PA) is FAR and only about time.
Turn-taking (PT) ends in a remark that wants no reply: an episode without targets, whose score is Q. Action prediction (AP) and PT are
asked shortly before the video ends, so they need the videos, or their lengths.
"""

import re
from pathlib import Path

from ..episodes import Episode, Query, Target
from ..errors import SchemaError
from ..judges import judge as verdict
from ..records import read_records
from .replies import first_replies, percent, replies, scored

FILES = {
    "SG": "dynamic_state_grounding.json", "MD": "multiturn_dependency_reasoning.json", "SI": "speaker_identification.json",
    "AP": "action_prediction.json", "PA": "proactive_alerting.json", "PT": "proactive_turntaking.json",
}  # fmt: skip
MEASURED = ("AP", "PT")  # asked `BEFORE_END_S` before the video ends
BEFORE_END_S = 5.0  # the benchmark asks 5 frames before the end, at one frame a second
AFTER_S = 5.0  # an alert that comes too late is still waited for
NO_REPLY = "<2>"  # how a turn-taking model may say that it stays silent

_CLIP = re.compile(r"_(\d+\.\d+)_(\d+\.\d+)\.mp4$")  # where the clip was cut from, hence how long it is
_SPAN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*--\s*(\d+(?:\.\d+)?)\s*")


def read(path, fps=0.5, tail_s=4.0, lengths=None):
    """Episodes of one file (named as released), or of all six in a folder.

    `lengths` is `{video: seconds}`; without it AP and PT measure the files in `clips/` and `videos/` beside the annotation.
    """
    path = Path(path)
    tasks = {task: path if path.is_file() else path / name for task, name in FILES.items() if path.name == name or (path / name).is_file()}
    if not tasks:
        raise SchemaError(path, "", "", f"is neither one of the benchmark's files nor a folder with any: {', '.join(FILES.values())}")
    records = {task: read_records(file) for task, file in tasks.items()}
    if lengths is None:
        lengths = _measure({r.text("video") for task in MEASURED for r in records.get(task, ())}, path.parent if path.is_file() else path)
    return [episode for task in records for episode in _read_task(task, records[task], fps, tail_s, lengths)]


def official(episodes, traces, judge):
    """Percent. SG, MD: all turns right (`all`), each step, and the steps so far (`cumulative`); AP, SI: right; PA: first alert inside
    (`accuracy`), share of alerts inside (`precision`), overlap of alerts and span (`iou`); PT: silent.

    Right is a verdict of 1 by `judge`, where the benchmark asks GPT-4o yes or no."""
    rows = {}
    for episode, trace in scored(episodes, traces):
        rows.setdefault(episode.task, []).append(_official_row(episode, trace, judge))
    result = {}
    for task, verdicts in sorted(rows.items()):
        if task in ("SG", "MD"):
            result[task] = _conversation(verdicts)
        elif task == "PA":
            result[task] = {name: percent(column) for name, column in zip(("accuracy", "precision", "iou"), zip(*verdicts))}
        else:
            result[task] = {"accuracy": percent([v for v in verdicts if v is not None])}
    return result


def alerting(times, span):
    """`(first alert inside, share inside, intersection over union of first..last alert with the span)`."""
    a, b = span
    if not times:
        return 0.0, 0.0, 0.0
    first, last = min(times), max(times)
    shared = max(0.0, min(last, b) - max(first, a))
    union = max(last, b) - min(first, a)
    return float(a <= first <= b), sum(a <= t <= b for t in times) / len(times), shared / union if union else 0.0


def _read_task(task, records, fps, tail_s, lengths):
    make = {"SG": _conversation_of, "MD": _conversation_of, "SI": _speaker, "PA": _alert, "AP": _action, "PT": _remark}[task]
    for i, record in enumerate(records):
        video = record.text("video")
        if task in MEASURED and video not in lengths:
            record.fail("video", f"{video!r} has no length; {task} is asked {BEFORE_END_S:g} s before the end")
        queries, targets, end = make(record, lengths.get(video), tail_s)
        regime, folder = "FAR" if task == "PA" else "RT", "clips" if task == "AP" else "videos"
        meta = {"video_id": video, "source_id": f"{task}-{i}", **({"text_rule": "any"} if task == "PA" else {})}
        yield Episode(f"omnimmi-{task}-{i}", "omnimmi", task, regime, f"{folder}/{video}", 0.0, end, fps, queries, targets, meta)


def _conversation_of(record, length, tail_s):
    queries, targets = [], []
    for i, turn in enumerate(record.records("qa")):
        span = _SPAN.fullmatch(turn.text("timestamp"))
        if not span:
            turn.fail("timestamp", f"{turn.text('timestamp')!r} is not of the form '9.0 -- 13.0'")
        a, b = sorted((float(span[1]), float(span[2])))
        # The benchmark puts the model's last output there; in a stream the model has it in its history.
        text = turn.text("question").replace("##ANSWER##", "your previous answer")
        queries.append(Query(f"q{i}", (a + b) / 2, text, "text"))
        targets.append(Target(f"g{i}", f"q{i}", (a + b) / 2, ((a + b) / 2, b), turn.text("answer")))
    if not queries:
        record.fail("qa", "is empty: a conversation has at least one turn")
    return tuple(queries), tuple(targets), max(q.t_q for q in queries) + tail_s


def _speaker(record, length, tail_s):
    t = record.number("timestamp")
    return _one(t, record.text("question"), record.text("answer"), t + tail_s)


def _action(record, length, tail_s):
    options = record.strings("vocab")
    if record.text("answer") not in options:
        record.fail("answer", f"{record.text('answer')!r} is not in vocab")
    return _one(max(0.0, length - BEFORE_END_S), record.text("question"), record.text("answer"), length)


def _alert(record, length, tail_s):
    a, b = record.numbers("answer", 2)
    if b < a:
        record.fail("answer", f"ends at {b:g}, before it begins at {a:g}")
    named = _CLIP.search(record.text("video"))
    end = max(b, float(named[2]) - float(named[1])) if named else b + AFTER_S
    return (Query("q", 0.0, record.text("question"), "text"),), (Target("g0", "q", a, (a, b), "alert"),), end


def _remark(record, length, tail_s):
    turns = record.records("conversation")
    if not turns:
        record.fail("conversation", "is empty")
    *earlier, last = turns
    said = [f"User: {turn.text('human')}\nAssistant: {turn.text('assistant')}" for turn in earlier]
    text = "\n".join([*said, f"User: {last.text('human')}"])
    return (Query("q", max(0.0, length - BEFORE_END_S), text, "text"),), (), length


def _one(t, question, answer, end):
    return (Query("q", t, question, "text"),), (Target("g0", "q", t, (t, t), answer),), end


def _official_row(episode, trace, judge):
    said = replies(episode, trace)
    if episode.task == "PA":
        return alerting([t for t, _ in said], episode.targets[0].window)
    if episode.task == "PT":
        return not said or said[0][1].startswith(NO_REPLY)
    steps = []
    for query, target, reply in zip(episode.queries, episode.targets, first_replies(episode, trace)):
        score = 0.0 if reply is None else verdict(reply, query, (target.answer, *target.aliases), judge)
        steps.append(None if score is None else score == 1.0)
    return steps if episode.task in ("SG", "MD") else steps[0]


def _conversation(rows):
    rows = [row for row in rows if None not in row]
    longest = max(map(len, rows), default=0)
    step = [[row[i] for row in rows if len(row) > i] for i in range(longest)]
    cumulative = [[all(row[: i + 1]) for row in rows if len(row) > i] for i in range(longest)]
    return {
        "all": percent([all(row) for row in rows]),
        "steps": [percent(column) for column in step],
        "cumulative": [percent(column) for column in cumulative],
    }


def _measure(videos, folder):
    """Lengths of the video files; names all that are missing at once."""
    found = {v: next((folder / d / v for d in ("clips", "videos") if (folder / d / v).is_file()), None) for v in sorted(videos)}
    missing = [video for video, file in found.items() if file is None]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise SchemaError(folder, "", "", f"{len(missing)} videos are in neither clips/ nor videos/, and their length is needed: {shown}")
    return {video: _length(file) for video, file in found.items()}


def _length(file):
    """Seconds of a video. Of a damaged one more than can be read: its episode then fails when it is streamed, and no other does."""
    import av

    from ...engine.video_packets import open_container

    seen = 0.0
    try:
        with open_container(str(file)) as container:
            if container.duration:
                return container.duration / av.time_base
            for packet in container.demux(video=0):
                seen = max(seen, float((packet.pts or 0) * packet.time_base))
            if seen:
                return seen
    except (av.FFmpegError, IndexError):
        pass
    return seen + 2 * BEFORE_END_S
