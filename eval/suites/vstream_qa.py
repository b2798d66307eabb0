"""VStream-QA (Flash-VStream): `rvs_*.json` and `test_qa_*.json`, free-text questions about everything up to now.

A question is asked at its `end_time`, or at the end of the video where the record only gives `duration`.
"""

from ..episodes import Episode, Query, Target
from ..judges import judge as verdict
from ..records import read_records
from .catalog import find_files
from .replies import first_replies, percent, scored

FILES = ("rvs_ego.json", "rvs_movie.json", "vs_ego.json", "vs_movie.json", "test_qa_ego4d.json", "test_qa_movienet.json")


def read(path, fps=0.5, tail_s=4.0):
    """RT episodes of one file or of all in a folder; the task is the name of the file."""
    return [_episode(r, f.stem, i, fps, tail_s) for f in find_files(path, *FILES) for i, r in enumerate(read_records(f))]


def official(episodes, traces, judge):
    """By file: accuracy (percent) and mean score (0..5) of the first replies, 5 times the verdict of `judge`, right from 3 on; None while a
    verdict is missing."""
    rows = {}
    for episode, trace in scored(episodes, traces):
        (reply,) = first_replies(episode, trace)
        value = 0.0 if reply is None else verdict(reply, episode.queries[0], (episode.targets[0].answer,), judge)
        rows.setdefault(episode.task, []).append(None if value is None else 5 * value)
    return {
        task: None if None in scores else {"accuracy": percent([s >= 3 for s in scores]), "score": sum(scores) / len(scores)}
        for task, scores in sorted(rows.items())
    }  # fmt: skip


def _episode(record, task, number, fps, tail_s):
    t, video = record.number("end_time", None), record.text("video_id")
    if t is None:
        t = record.number("duration", None)
    if t is None:
        record.fail("end_time", "is missing, and so is duration: there is no time to ask at")
    meta = {"video_id": video, "source_id": record.data.get("id", number), "answer_type": record.text("answer_type", "")}
    return Episode(
        f"vstream_qa-{task}-{number}", "vstream_qa", task, "RT", video, 0.0, t + tail_s, fps,
        (Query("q", t, record.text("question"), "text"),), (Target("g0", "q", t, (t, t), record.text("answer")),), meta,
    )  # fmt: skip
