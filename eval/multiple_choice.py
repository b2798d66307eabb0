"""Multiple choice on whole videos, as offline benchmarks ask it: what a model that was tuned for streams still knows.

Every question is answered twice, and the two are never mixed: `logits` takes the option letter that is likeliest to come next, `generation`
reads the letter from the words that the model writes. Published numbers are of one kind or the other, and they differ.
"""

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from .answers import letter
from .compare import resample

WAYS = ("logits", "generation")
SYSTEM = "You are a helpful assistant."
MAX_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Item:
    """One question about `video` from `start` to `end` seconds (None: its end).

    `answer`: a letter; `groups`: {name of a split: part, or several parts}; `folder_fps`: images a second where a video is a folder.
    """

    item_id: str
    task: str
    video: str
    prompt: str
    options: tuple[str, ...]
    answer: str
    groups: dict = field(default_factory=dict, hash=False)
    start: float = 0.0
    end: float | None = None
    folder_fps: float = 1.0

    @property
    def letters(self):
        return [chr(65 + i) for i in range(len(self.options))]


def option_lines(options, form="{}. {}"):
    """The options one a line; those that bring their letter along ("A. red") keep it."""
    own = all(option[:2] in (f"{chr(65 + i)}.", f"{chr(65 + i)})") for i, option in enumerate(options))
    return "\n".join(options if own else [form.format(chr(65 + i), option) for i, option in enumerate(options)])


def right_letter(record, name, count):
    """The letter in field `name` of a record, checked against the number of options."""
    value = record.text(name).strip().strip("()").rstrip(".")
    if len(value) != 1 or not 0 <= ord(value) - 65 < count:
        record.fail(name, f"{value!r} is not one of the {count} option letters")
    return value


def right_option(record, name, options):
    """The letter of the option whose text stands in field `name`; of several the last, as the benchmarks' own code takes it."""
    value = record.text(name).strip()
    found = [i for i, option in enumerate(options) if option.strip() == value]
    if not found:
        record.fail(name, f"{value!r} is none of the options")
    return chr(65 + found[-1])


def right_index(record, name, count):
    """The letter of the option whose number, from 0 on, stands in field `name`."""
    value = record.integer(name)
    if not 0 <= value < count:
        record.fail(name, f"is {value}, but there are {count} options, counted from 0")
    return chr(65 + value)


def show(engine, path, item, frames):
    """A stream of `engine` that has seen `frames` frames of the item's video, evenly apart. Raises VideoError."""
    shown = evenly(path, item, frames)
    stream = engine.open(system=SYSTEM)
    try:
        engine.scan([frame.pixels for frame in shown], stream, times=[frame.time for frame in shown], force=False)
    except BaseException:
        stream.close()
        raise
    return stream


def evenly(path, item, count):
    """At most `count` frames from `item.start` to `item.end`, evenly apart."""
    from ..engine.video import open_source, probe

    if Path(path).is_dir():
        with open_source(path, fps=item.folder_fps, start=item.start, end=item.end) as source:
            every = list(source)
        return [every[i * len(every) // count] for i in range(count)] if len(every) > count else every
    end = probe(path)["duration"] if item.end is None else item.end
    # A file that does not say how long it is: one frame a second is all that can be promised.
    fps = 1.0 if end is None else count / max(end - item.start, 1e-3)
    with open_source(path, fps=fps, start=item.start, end=end) as source:
        return list(islice(source, count))


def answer(engine, stream, item):
    """Both answers to one question, as a JSON-ready row; the stream is left as it was."""
    shares = engine.choose(stream, item.prompt, item.letters)
    text = engine.generate(stream, item.prompt, MAX_TOKENS)
    likeliest = item.letters[max(range(len(shares)), key=shares.__getitem__)]
    return {"logits": likeliest, "shares": [round(share, 6) for share in shares], "generation": letter(text, item.options), "text": text}


def answer_all(engine, items, paths, frames, done=()):
    """Yield `(item, row)` of every item not in `done`, each video shown once; a video that cannot be read gives rows with `err`."""
    from ..engine.errors import VideoError

    clips = {}
    for item in items:
        if item.item_id not in done:
            clips.setdefault((item.video, item.start, item.end), []).append(item)
    for (video, _, _), asked in clips.items():
        try:
            stream = show(engine, paths[video], asked[0], frames)
        except VideoError as error:
            yield from ((item, {"err": str(error)}) for item in asked)
            continue
        with stream:
            for item in asked:
                yield item, answer(engine, stream, item)


def scores(items, rows, overall="items"):
    """`{"logits": table, "generation": table}`; a table has `overall`, `ci95` over videos, `tasks`, `groups` and `chance`, all percent,
    `answered`, the share of replies with a letter in them, and `items`, how many of how many were run.

    rows: `{item_id: row}`. overall: the mean over "items", or the unweighted mean over "tasks". What was not run is left out; a reply
    without a letter is wrong.
    """
    run = [item for item in items if item.item_id in rows and "err" not in rows[item.item_id]]
    return {way: _table(run, rows, way, overall, f"{len(run)}/{len(items)}") for way in WAYS}


def _table(run, rows, way, overall, count):
    right = np.array([100.0 * (rows[item.item_id][way] == item.answer) for item in run])
    parts = {}
    for i, item in enumerate(run):
        parts.setdefault(("tasks", item.task), []).append(i)
        for split, among in item.groups.items():
            for part in (among,) if isinstance(among, str) else among:
                parts.setdefault((split, part), []).append(i)
    tasks = {name: members for (split, name), members in sorted(parts.items()) if split == "tasks"}
    pools = list(tasks.values()) if overall == "tasks" else [list(range(len(run)))]
    draws = resample([item.video for item in run]) if run else None
    interval = None
    if draws:
        samples = np.stack([draws(members, right[members]) for members in pools])
        known = ~np.isnan(samples)
        interval = [float(x) for x in np.percentile((np.where(known, samples, 0).sum(0) / known.sum(0)), (2.5, 97.5))]
    groups = {}
    for (split, part), members in sorted(parts.items()):
        if split != "tasks":
            groups.setdefault(split, {})[part] = float(right[members].mean())
    return {
        "overall": float(np.mean([right[members].mean() for members in pools])) if run else None,
        "ci95": interval,
        "tasks": {name: float(right[members].mean()) for name, members in tasks.items()},
        "groups": groups,
        "chance": float(np.mean([100 / len(item.options) for item in run])) if run else None,
        "answered": float(np.mean([rows[item.item_id][way] is not None for item in run])) if run else None,
        "items": count,
    }
