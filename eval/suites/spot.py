"""SPOT-Bench ("Don't Pause!", 2026): `data/{abd,pnr,sqa,spg,si,ui}.json`; its score, timeliness F1@K.

Every slot [t - off, t + off] is a target. The files do not say how long the videos are: a stream ends `TAIL_S` after its last slot or
question, or at its entry in `lengths`.
"""

import math

from ..episodes import Episode, Query, Target
from ..errors import SchemaError
from ..judges import judge as verdict
from ..records import Record, kind, read_json
from .catalog import find_files
from .replies import routed_replies, scored

# Half width of a slot, spread before and after it (seconds), and the verdict from which a response means the same.
SLOTS = {
    "abd": (1.0, 1.48, 0.74), "sqa": (1.0, 1.48, 0.74), "pnr": (0.5, 0.74, 0.37), "ui": (0.5, 0.74, 0.37), "spg": (1.5, 2.22, 1.11),
    "si": (1.5, 2.22, 1.11),
}  # fmt: skip
KEYWORD = ("abd", "pnr")
FLOOR = 0.05  # a response further off in time than this matches nothing
TAIL_S = 10.0
SILENCE = {"no", "none", "nothing", "no answer", "no response", "no reply"}
MONITOR = "Watch the video and warn me or step in whenever I need it, without being asked."


def read(path, fps=1.0, lengths=None):
    """FAR episodes, one a video, with all its questions; tasks are ABD, PNR, SQA, SPG, SI and UI."""
    names = [f"{task}.json" for task in SLOTS]
    episodes = []
    for file in find_files(path, *names, *(f"data/{name}" for name in names)):
        task, videos = file.stem, read_json(file)
        if task not in SLOTS:
            raise SchemaError(file, "", "", f"is named like none of {', '.join(names)}")
        if not isinstance(videos, dict):
            raise SchemaError(file, "", "", f"expected an object of videos at the top level, got {kind(videos)}")
        episodes += [_episode(task, v, Record(row, file, f"video {v}"), fps, (lengths or {}).get(v)) for v, row in videos.items()]
    return episodes


def official(episodes, traces, judge, k=5):
    """`{task: {"T-score", "P", "R", "T-F1"}, ..., "overall"}` in percent, pooled over slots; None while a verdict is missing."""
    pooled = {}
    for episode, trace in scored(episodes, traces):
        task = episode.task.lower()
        rule = "contains" if task in KEYWORD else None
        for query, replies in zip(episode.queries, routed_replies(episode, trace)):
            said = [(t, text) for t, text in replies if text.strip(" .").casefold() not in SILENCE]
            slots = [t for t in episode.targets if t.qid == query.qid]
            same = lambda i, j: verdict(said[i][1], query, (slots[j].answer, *slots[j].aliases), judge, rule)  # noqa: B023, E731
            if not slots:
                continue
            counts = timeliness([t for t, _ in said], [slot.t_star for slot in slots], SLOTS[task], same, k)
            pooled.setdefault(episode.task, []).append(counts)
            pooled.setdefault("overall", []).append(counts)
    return {task: None if None in rows else summary(rows) for task, rows in sorted(pooled.items())}


def closeness(t, center, slot):
    """1 in the slot, falling off as a Gaussian on either side."""
    off, early, late = slot
    if t < center - off:
        return math.exp(-((t - center + off) ** 2) / (2 * early**2))
    if t > center + off:
        return math.exp(-((t - center - off) ** 2) / (2 * late**2))
    return 1.0


def timeliness(times, centers, slot, same, k=5):
    """`(sum of best closeness, slots hit, responses that hit nothing, slots)` for one question; None if `same(i, j)` is ever None.

    Responses in order of time; each slot takes up to `k` and keeps the closest. One response may serve two slots, as in the benchmark.
    """
    best, taken, unmatched = [0.0] * len(centers), [0] * len(centers), 0
    for i in sorted(range(len(times)), key=lambda i: times[i]):
        matched = False
        for j in sorted(range(len(centers)), key=lambda j: centers[j]):
            near = closeness(times[i], centers[j], slot)
            if taken[j] >= k or near < FLOOR:
                continue
            score = same(i, j)
            if score is None:
                return None
            if score >= 0.5:
                taken[j], best[j], matched = taken[j] + 1, max(best[j], near), True
        unmatched += not matched
    return sum(best), sum(b > 0 for b in best), unmatched, len(centers)


def summary(rows):
    """Percent, from summed `timeliness` rows."""
    weight, hit, unmatched, slots = (sum(column) for column in zip(*rows))
    p, r = weight / (hit + unmatched) if hit + unmatched else 0.0, weight / slots
    return {"T-score": 100 * weight / slots, "P": 100 * p, "R": 100 * r, "T-F1": 100 * 2 * p * r / (p + r) if p + r else 0.0}


def _episode(task, video, record, fps, length):
    queries, targets = [], []
    off = SLOTS[task][0]
    for i, turn in enumerate(record.records("turns")):
        times, answers = turn.numbers("response_time"), turn.strings("response")
        if len(times) != len(answers):
            turn.fail("response", f"has {len(answers)} texts for {len(times)} response times")
        asked = 0.0 if task == "ui" else turn.number("ask_time")
        queries.append(Query(f"q{i}", asked, turn.text("question") or MONITOR, "text"))
        for j, (t, text) in enumerate(zip(times, answers)):
            # Several wordings of one answer stand behind each other.
            gold, *aliases = [part.strip() for part in text.split(";") if part.strip()] or [text]
            targets.append(Target(f"g{i}-{j}", f"q{i}", t, (t - off, t + off), gold, tuple(aliases)))
    if not queries:
        record.fail("turns", "is empty: there is no question")
    end = length or max([q.t_q for q in queries] + [t.window[1] for t in targets]) + TAIL_S
    meta = {"video_id": video, "source_id": f"{task}-{video}", **({"text_rule": "contains"} if task in KEYWORD else {})}
    return Episode(
        f"spot-{task}-{video}", "spot", task.upper(), "FAR", f"videos/{video}.mp4", 0.0, end, fps, tuple(queries), tuple(targets), meta
    )
