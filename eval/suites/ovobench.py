"""OVO-Bench (CVPR 2025) as streams: 12 tasks, `ovo_bench_new.json` of the repository (RSE-1.0 section 10).

Videos are `src_videos/<video>`. The benchmark's own prefix-query protocol is in `ovobench_offline`.
"""

from ..episodes import Episode, Query, Target
from ..records import read_records
from .catalog import find_file

BACKWARD = ("EPM", "ASI", "HLD")
REALTIME = ("OCR", "ACR", "ATR", "STU", "FPD", "OJR")
FORWARD = ("REC", "SSR", "CRR")
ANNOTATION = ("ovo_bench_new.json", "data/ovo_bench_new.json")

# The wording of the benchmark: a different one would give different scores.
CHOICE_PROMPT = (
    "\nQuestion: {}\nOptions:\n{}\n\nRespond only with the letter corresponding to your chosen option (e.g., A, B, C). \n"
    "Do not include any additional text or explanation in your response.\n"
)

# What policies without eyes get in the benchmark's own protocol, percent; measured on the released files.
BLIND = {
    "SSR, always 'Yes'": 67.25, "CRR, always 'Yes'": 60.0, "REC, always '1'": 20.49, "HLD, always 'Unable to answer'": 100.0,
    "EPM, always one letter": 40.1, "HLD, always one letter": 38.2, "FPD, always one letter": 33.7,
}  # fmt: skip
COUNT_FRESH_S = 5.0  # how long a count stays worth saying, if no further event ends before
REC_ANCHORS = ("end", "start+2")


def read(path, fps=0.5, tail_s=4.0, rec_anchor="end"):
    """Episodes of all records. `tail_s` seconds follow a backward or real-time query, so that repeating oneself can be seen.

    `rec_anchor` "start+2" puts the targets of REC where OVO-Timing has them; "end" is where the count is first known.
    """
    if rec_anchor not in REC_ANCHORS:
        raise ValueError(f"rec_anchor {rec_anchor!r} is not one of {', '.join(REC_ANCHORS)}")
    records = read_annotation(path)
    make = {"REC": lambda r: _count(r, rec_anchor), "SSR": _steps, "CRR": _clue}
    episodes = []
    for record in records:
        task = record.text("task")
        query, targets, t_end = make[task](record) if task in FORWARD else _choice(record, tail_s)
        regime = "FAR" if task in FORWARD else "BT" if task in BACKWARD else "RT"
        number, video = record.integer("id"), record.text("video")
        episodes.append(
            Episode(
                f"ovobench-{number}", "ovobench", task, regime, f"src_videos/{video}", 0.0, t_end, fps, (query,), targets,
                {"video_id": video, "source_id": number},
            )
        )  # fmt: skip
    return episodes


def read_annotation(path):
    """The checked `Record`s of `ovo_bench_new.json`."""
    records, seen = read_records(find_file(path, *ANNOTATION)), {}
    for record in records:
        number = record.integer("id")
        if number in seen:
            record.fail("id", f"{number} was already used by {seen[number]}; ids must be unique")
        seen[number] = record.place
        record.choice("task", BACKWARD + REALTIME + FORWARD)
    return records


def choice_prompt(record):
    """The multiple-choice question as the benchmark words it."""
    options = "; ".join(f"{chr(65 + i)}. {option}" for i, option in enumerate(record.strings("options"))) + ";"
    return CHOICE_PROMPT.format(record.text("question"), options)


def _choice(record, tail_s):
    t, options, gold = record.number("realtime"), record.strings("options"), record.integer("gt")
    if not 2 <= len(options) <= 26:
        record.fail("options", f"expected 2 to 26 options, got {len(options)}")
    if not 0 <= gold < len(options):
        record.fail("gt", f"is {gold}, but there are {len(options)} options, counted from 0")
    query = Query("q", t, choice_prompt(record), "letter", options)
    return query, (Target("g0", "q", t, (t, t), chr(65 + gold)),), t + tail_s


def _clue(record):
    asked, clue, end = record.number("ask_time"), record.number("clue_time"), _last_probe(record)
    if not asked <= clue <= end:
        record.fail("clue_time", f"is {clue:g}, not between ask_time {asked:g} and the last probe {end:g}")
    target = Target("g0", "q", clue, (clue, end), record.text("answer"))
    return Query("q", asked, record.text("question"), "text"), (target,), end


def _steps(record):
    steps, starts, ends = record.strings("all_steps"), record.numbers("start_time"), record.numbers("end_time")
    _same_length(record, all_steps=steps, start_time=starts, end_time=ends)
    query = Query("q", 0.0, f"Tell me each step of {record.text('tutorial')} when it starts.", "text")
    targets = tuple(Target(f"g{i}", "q", a + 2, (a, b), step) for i, (a, b, step) in enumerate(zip(starts, ends, steps)))
    return query, targets, _last_probe(record)


def _count(record, anchor):
    starts, ends = record.numbers("start_times"), record.numbers("end_times")
    _same_length(record, start_times=starts, end_times=ends)
    query = Query("q", 0.0, f"Each time they {record.text('activity')}, say the total count so far.", "int")
    targets = []
    for i, (start, end) in enumerate(zip(starts, ends)):
        until = min(ends[i + 1], end + COUNT_FRESH_S) if i + 1 < len(ends) else end + COUNT_FRESH_S
        due = end if anchor == "end" else start + 2
        targets.append(Target(f"g{i}", "q", due, (end, max(end, until)), str(i + 1)))
    return query, tuple(targets), _last_probe(record)


def _last_probe(record):
    probes = record.records("test_info")
    if not probes:
        record.fail("test_info", "is empty: a forward record needs at least one probe")
    return max(probe.number("realtime") for probe in probes)


def _same_length(record, **lists):
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        record.fail(next(iter(lists)), f"the lists of one record must be equally long and not empty, got {lengths}")
