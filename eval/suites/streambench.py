"""StreamBench v0.3 (StreamChat, ICLR 2025): `streaming_bench_v0.3.json`, a conversation of questions along each video."""

from itertools import pairwise

from ..episodes import Episode, Query, Target
from ..judges import judge as verdict
from ..records import read_records
from .catalog import find_file
from .replies import first_replies, percent, scored

CLASSES = ("OS", "LM", "SM", "CI", "KG", "SF")


def read(path, fps=0.5, tail_s=4.0):
    """One RT episode a video, with all its questions; the task is the kind of video (`class_1`)."""
    return [_episode(record, i, fps, tail_s) for i, record in enumerate(read_records(find_file(path, "streaming_bench_v0.3.json")))]


def official(episodes, traces, judge):
    """Of the first replies: accuracy (`Acc`, percent) and mean score (`Sco`, 0..5) overall and by question class, and `Coh`, the mean
    change of the score from one question to the next. Scores are 5 times the verdict of `judge`, right from 3 on; None while a verdict is
    missing."""
    scores, changes = {}, []
    for episode, trace in scored(episodes, traces):
        row = []
        for query, target, reply, kind in zip(episode.queries, episode.targets, first_replies(episode, trace), episode.meta["classes"]):
            value = 0.0 if reply is None else verdict(reply, query, (target.answer,), judge)
            row.append(None if value is None else 5 * value)
            scores.setdefault(kind, []).append(row[-1])
        changes += [None if None in pair else abs(pair[0] - pair[1]) for pair in pairwise(row)]
    table = {"overall": _table([s for rows in scores.values() for s in rows]), **{k: _table(scores[k]) for k in CLASSES if k in scores}}
    return {**table, "Coh": None if None in changes or not changes else sum(changes) / len(changes)}


def _table(scores):
    if None in scores or not scores:
        return None
    return {"Acc": percent([s >= 3 for s in scores]), "Sco": sum(scores) / len(scores)}


def _episode(record, number, fps, tail_s):
    info, queries, targets, classes = record.record("info"), [], [], []
    for i, point in enumerate(sorted(record.records("breakpoint"), key=lambda point: point.number("time"))):
        t = point.number("time")
        queries.append(Query(f"q{i}", t, point.text("question"), "text"))
        targets.append(Target(f"g{i}", f"q{i}", t, (t, t), point.text("answer")))
        classes.append(point.choice("class", CLASSES))
    if not queries:
        record.fail("breakpoint", "is empty: there is no question")
    video = info.text("video_path")
    return Episode(
        f"streambench-{number}", "streambench", info.text("class_1"), "RT", video, 0.0, queries[-1].t_q + tail_s, fps, tuple(queries),
        tuple(targets), {"video_id": video, "source_id": number, "classes": classes},
    )  # fmt: skip
