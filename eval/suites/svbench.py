"""SVBench (ICLR 2025): `Con/Con_EN/<video>.json` (linked chains) or `Dialogue` files (single chains), one file a video.

Every chain is a short dialogue about the segment that it ends with. In a stream its questions come one turn after the other, the first at
the end of the segment; chains that links repeat are asked once.
"""

from pathlib import Path

from ..episodes import Episode, Query, Target
from ..errors import SchemaError
from ..judges import judge as verdict
from ..records import read_records
from .replies import first_replies, scored

FOLDERS = ("", "Con/Con_EN", "Con_EN", "Dialogue", "Con/Con_ZH", "Con_ZH")


def read(path, fps=0.5, tail_s=4.0):
    """One RT episode a video, from one file or all files of the first of `FOLDERS` below `path` that has any."""
    path = Path(path)
    files = [path] if path.is_file() else next((f for d in FOLDERS if (f := sorted((path / d).glob("*.json")))), [])
    if not files:
        raise SchemaError(path, "", "", "is neither a file of chains nor a folder with Con/Con_EN/*.json")
    return [_episode(file, fps, tail_s) for file in files]


def official(episodes, traces, judge):
    """`OS` in percent: the mean over videos of the mean over questions of the verdict on the first reply; None while one is missing."""
    means = []
    for episode, trace in scored(episodes, traces):
        replies = zip(episode.queries, episode.targets, first_replies(episode, trace))
        row = [0.0 if reply is None else verdict(reply, query, (target.answer,), judge) for query, target, reply in replies]
        means.append(None if None in row else sum(row) / len(row))
    return {"OS": None if None in means or not means else 100 * sum(means) / len(means)}


def _episode(file, fps, tail_s):
    chains = {}
    for record in read_records(file):
        for chain in [record.record(name) for name in ("chain_1", "chain_2") if name in record] or [_single(record)]:
            questions, answers = chain.strings("questions"), chain.strings("answers")
            if len(questions) != len(answers) or not questions:
                chain.fail("answers", f"has {len(answers)} texts for {len(questions)} questions")
            chains[_seconds(chain, "qac_timestamps_end"), questions] = answers
    if not chains:
        raise SchemaError(file, "", "", "holds no chain")
    queries, targets = [], []
    for (end, questions), answers in sorted(chains.items()):
        for turn, (question, answer) in enumerate(zip(questions, answers)):
            i, t = len(queries), end + turn / fps
            queries.append(Query(f"q{i}", t, question, "text"))
            targets.append(Target(f"g{i}", f"q{i}", t, (t, t), answer))
    return Episode(
        f"svbench-{file.stem}", "svbench", "SVBench", "RT", f"Video/{file.stem}.mp4", 0.0, max(q.t_q for q in queries) + tail_s, fps,
        tuple(queries), tuple(targets), {"video_id": file.stem, "source_id": file.stem},
    )  # fmt: skip


def _single(record):
    """A Dialogue record keeps its times beside the chain."""
    chain = record.record("chain")
    chain.data.update({key: record.data[key] for key in ("qac_timestamps_end",) if key in record})
    return chain


def _seconds(record, name):
    try:
        hours, minutes, seconds = record.text(name).split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        record.fail(name, f"{record.text(name)!r} is not a time stamp such as 00:01:30.000")
