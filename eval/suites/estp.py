"""ESTP-Bench (NeurIPS 2025): `estp_bench_sq.json`, one question a clip with several intervals to answer in; its score ESTP-F1."""

from ..episodes import Episode, Query, Target
from ..errors import SchemaError
from ..records import Record, kind, read_json
from .catalog import find_file
from .replies import replies, scored

ANTICIPATION_S, LATENCY_S = 1.0, 2.0
# Tasks whose best moment is the start of the interval; for all others it is the middle.
AT_START = {
    "Object Recognition", "Attribute Perception", "Text-Rich Understanding", "Object Localization", "Object Function Reasoning",
    "Information Function Reasoning", "Object Relative Context",
}  # fmt: skip
SHORT_AT_START = {"OR", "AP", "TRU", "OL", "OFR", "IFR", "ORC"}


def read(path, fps=2.0):
    """FAR episodes: asked at the start of the clip, one target an interval. Videos are `full_scale_2fps_max384/{video}.mp4`."""
    file = find_file(path, "estp_bench_sq.json", "estp_dataset/estp_bench_sq.json")
    videos = read_json(file)
    if not isinstance(videos, dict):
        raise SchemaError(file, "", "", f"expected an object of videos at the top level, got {kind(videos)}")
    episodes = []
    for video, clips in videos.items():
        clips = Record(clips, file, f"video {video}")
        for clip in clips.data:
            episodes += [_episode(record, video, clip, i, fps) for i, record in enumerate(clips.records(clip))]
    return episodes


def official(episodes, traces, judge):
    """ESTP-F1 in percent by task, and its mean over tasks; a task is None while a verdict is missing."""
    rows = {}
    for episode, trace in scored(episodes, traces):
        golds = [(*t.window, best_moment(episode.task, *t.window)) for t in episode.targets]
        predictions = []
        for t, text in replies(episode, trace):
            near = [j for j, (a, b, _) in enumerate(golds) if a - ANTICIPATION_S <= t <= b + LATENCY_S]
            verdicts = {j: judge(episode.queries[0].text, (episode.targets[j].answer,), text) for j in near}
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


def _episode(record, video, clip, i, fps):
    # The Goal-Step part of the release names the ends of its clips differently.
    prefix = "clip_" if "clip_start_time" in record or "start_time" not in record else ""
    start, end = record.number(f"{prefix}start_time"), record.number(f"{prefix}end_time")
    if end < start:
        record.fail(f"{prefix}end_time", f"is {end:g}, before {prefix}start_time {start:g}")
    targets = []
    for j, turn in enumerate(record.records("conversation")):
        turn.choice("role", ("assistant",))
        a, b = turn.number("start_time"), turn.number("end_time")
        if b < a:
            turn.fail("end_time", f"is {b:g}, before start_time {a:g}")
        targets.append(Target(f"g{j}", "q", a, (a, b), turn.text("content")))
    return Episode(
        f"estp-{video}-{clip}-{i}", "estp", record.text("Task Type").strip(), "FAR", f"full_scale_2fps_max384/{video}.mp4", start, end, fps,
        (Query("q", start, record.text("question"), "text"),), tuple(targets), {"video_id": video, "source_id": f"{clip}-{i}"},
    )  # fmt: skip
