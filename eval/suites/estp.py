"""ESTP-Bench (NeurIPS 2025): `estp_bench_sq.json`, one question a clip with several intervals to answer in, and `estp_bench_cq_v3.json`,
conversations of questions that refer to each other; its score ESTP-F1.

How a conversation is written down was read in the training code of its authors (zhangyl4/EyeWO, data/estp/livechat.py and
estp_gen/contextual_qa): turns of "user" with their `time`, each followed by the "assistant" turns that answer it.
"""

from ..episodes import Episode, Query, Target
from ..errors import SchemaError
from ..records import Record, kind, read_json
from .catalog import find_files
from .replies import replies, scored

FILES = ("estp_bench_sq.json", "estp_bench_cq_v3.json")
ANTICIPATION_S, LATENCY_S = 1.0, 2.0
# Tasks whose best moment is the start of the interval; for all others it is the middle.
AT_START = {
    "Object Recognition", "Attribute Perception", "Text-Rich Understanding", "Object Localization", "Object Function",
    "Object Function Reasoning", "Information Function", "Information Function Reasoning", "Object Relative Context",
}  # fmt: skip
SHORT_AT_START = {"OR", "AP", "TRU", "OL", "OFR", "IFR", "ORC"}


def read(path, fps=2.0):
    """FAR episodes, one a question or conversation, one target an interval. A question is asked at the start of its clip, those of a
    conversation in their turn. Videos are `full_scale_2fps_max384/{video}.mp4`."""
    episodes = []
    for file in find_files(path, *FILES, *(f"estp_dataset/{name}" for name in FILES)):
        videos = read_json(file)
        if not isinstance(videos, dict):
            raise SchemaError(file, "", "", f"expected an object of videos at the top level, got {kind(videos)}")
        suite = "estp-cq" if file.name == FILES[1] else "estp"
        for video, clips in videos.items():
            clips = Record(clips, file, f"video {video}")
            for clip in clips.data:
                episodes += [_episode(record, suite, video, clip, i, fps) for i, record in enumerate(clips.records(clip))]
    return episodes


def official(episodes, traces, judge):
    """ESTP-F1 in percent by task, and its mean over tasks; a task is None while a verdict is missing."""
    rows = {}
    for episode, trace in scored(episodes, traces):
        spans = episode.meta.get("spans", [target.window for target in episode.targets])
        golds = [(a, b, best_moment(episode.task, a, b)) for a, b in spans]
        asked = {query.qid: query.text for query in episode.queries}
        predictions = []
        for t, text in replies(episode, trace):
            near = [j for j, (a, b, _) in enumerate(golds) if a - ANTICIPATION_S <= t <= b + LATENCY_S]
            verdicts = {j: judge(asked[episode.targets[j].qid], (episode.targets[j].answer,), text) for j in near}
            predictions.append((t, {j: None if v is None else 1 + 4 * v for j, v in verdicts.items()}))
        rows.setdefault(episode.task, []).append(estp_f1(predictions, golds))
    tasks = {t: None if None in scores else 100 * sum(scores) / len(scores) for t, scores in sorted(rows.items())}
    return {"tasks": tasks, "mean": None if None in tasks.values() or not tasks else sum(tasks.values()) / len(tasks)}


def best_moment(task, start, end):
    return start if task in AT_START or task in SHORT_AT_START else (start + end) / 2


def estp_f1(predictions, golds):
    """`predictions` `[(seconds, {gold index: answer score 1..5})]`, `golds` `[(start, end, best moment)]`; 0..1, None if one is None.

    A response counts for every interval it falls in (1 s before to 2 s after); an interval is worth the mean over its responses of
    answer and timeliness; responses in no interval are false alarms.
    """
    hits, false_alarms = [[] for _ in golds], 0
    for t, answers in predictions:
        inside = [j for j, (a, b, _) in enumerate(golds) if a - ANTICIPATION_S <= t <= b + LATENCY_S]
        false_alarms += not inside
        for j in inside:
            a, b, best = golds[j]
            if answers.get(j, 1) is None:
                return None
            timeliness = 5 * max(0.0, 1 - abs(t - best) / max(1.0, b - a + ANTICIPATION_S + LATENCY_S))
            hits[j].append((answers.get(j, 1) + timeliness) / 10)
    worth, missed = sum(sum(h) / len(h) for h in hits if h), sum(not h for h in hits)
    total = 2 * worth + false_alarms + missed
    return 2 * worth / total if total else 0.0


def _episode(record, suite, video, clip, i, fps):
    # The Goal-Step part of the release names the ends of its clips differently.
    prefix = "clip_" if "clip_start_time" in record or "start_time" not in record else ""
    start, end = record.number(f"{prefix}start_time"), record.number(f"{prefix}end_time")
    if end < start:
        record.fail(f"{prefix}end_time", f"is {end:g}, before {prefix}start_time {start:g}")
    turns = record.records("conversation")
    roles = [turn.text("role").lower() for turn in turns]
    queries, targets, spans = [], [], []
    if "user" not in roles:
        queries.append(Query("q", start, record.text("question"), "text"))
    elif roles[0] != "user":
        turns[0].fail("role", f"{roles[0]!r} comes before any question")
    for turn, role in zip(turns, roles):
        if role == "user":
            queries.append(Query(f"q{len(queries)}", turn.number("time"), turn.text("content"), "text"))
        elif role == "assistant":
            a, b = turn.number("start_time"), turn.number("end_time")
            if b < a:
                turn.fail("end_time", f"is {b:g}, before start_time {a:g}")
            # What a conversation asks about may already be there when it asks; nothing can be answered before.
            due = max(a, queries[-1].t_q)
            targets.append(Target(f"g{len(targets)}", queries[-1].qid, due, (due, max(b, due)), turn.text("content")))
            spans.append([a, b])
        else:
            turn.fail("role", f"{role!r} is neither user nor assistant")
    meta = {"video_id": video, "source_id": f"{clip}-{i}"}
    if spans != [list(target.window) for target in targets]:
        meta["spans"] = spans
    if "user" in roles:
        asked = [query.t_q for query in queries]
        start, end = min([start, *asked]), max([end, *asked, *(b for _, b in spans)])
    return Episode(
        f"{suite}-{video}-{clip}-{i}", "estp", record.text("Task Type").strip(), "FAR", f"full_scale_2fps_max384/{video}.mp4",
        start, end, fps, tuple(queries), tuple(targets), meta,
    )  # fmt: skip
