"""Episodes: a video span, the queries asked in it, and the targets that a good answer hits (RSE-1.0 section 2)."""

from dataclasses import dataclass, field

from .answers import integer
from .errors import SchemaError
from .records import read_jsonl, write_jsonl

REGIMES = ("RT", "BT", "FAR")
ANSWER_FORMS = ("letter", "int", "yesno", "text")
MIN_FPS, MAX_FPS = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class Query:
    """A question that enters the stream at `t_q` seconds."""

    qid: str
    t_q: float
    text: str
    answer_form: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """One answer that is due: supported from `window[0]`, fresh until `window[1]`, ideally given at `t_star` (seconds)."""

    gid: str
    qid: str
    t_star: float
    window: tuple[float, float]
    answer: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Episode:
    """One stream to run and score. Times are seconds from the start of the video, `fps` is turns a second."""

    episode_id: str
    suite: str
    task: str
    regime: str
    video: str
    t_start: float
    t_end: float
    fps: float
    queries: tuple[Query, ...]
    targets: tuple[Target, ...]
    meta: dict = field(default_factory=dict, hash=False)

    @property
    def video_id(self):
        """What the confidence intervals are clustered by."""
        return str(self.meta.get("video_id", self.video))


def read_episodes(path):
    """All episodes of a JSONL file, in file order; raises `SchemaError` with line and field."""
    episodes, seen = [], {}
    for record in read_jsonl(path):
        episode = parse_episode(record)
        if episode.episode_id in seen:
            record.fail("episode_id", f"{episode.episode_id!r} was already used on {seen[episode.episode_id]}; ids must be unique")
        seen[episode.episode_id] = record.place
        episodes.append(episode)
    if not episodes:
        raise SchemaError(path, "", "", "holds no episode")
    return episodes


def write_episodes(path, episodes):
    """One episode a line; `read_episodes` gives the same episodes back."""
    write_jsonl(path, map(episode_row, episodes))


def parse_episode(record):
    """The `Episode` of a `Record`. Raises SchemaError naming line and field."""
    fps = record.number("fps", 0.5)
    if not MIN_FPS <= fps <= MAX_FPS:
        record.fail("fps", f"{fps:g} is outside {MIN_FPS:g} to {MAX_FPS:g} frames a second")
    t_start, t_end = record.number("t_start"), record.number("t_end")
    if t_end < t_start:
        record.fail("t_end", f"{t_end:g} lies before t_start {t_start:g}: the episode would have zero frames")
    queries = tuple(_query(q, t_start, t_end) for q in record.records("queries"))
    if not queries:
        record.fail("queries", "is empty: an episode asks at least one query")
    forms = {q.qid: q for q in queries}
    targets = tuple(_target(t, forms) for t in record.records("targets"))
    _unique(record, "queries", "qid", [q.qid for q in queries])
    _unique(record, "targets", "gid", [t.gid for t in targets])
    meta = record.record("meta", None)
    return Episode(
        record.text("episode_id"), record.text("suite"), record.text("task"), record.choice("regime", REGIMES), record.text("video"),
        t_start, t_end, fps, queries, targets, meta.data if meta else {},
    )  # fmt: skip


def _query(record, t_start, t_end):
    t_q = record.number("t_q")
    if not t_start <= t_q <= t_end:
        record.fail("t_q", f"{t_q:g} lies outside the episode, {t_start:g} to {t_end:g}")
    form, options = record.choice("answer_form", ANSWER_FORMS), record.strings("options", ())
    if form == "letter" and not 2 <= len(options) <= 26:
        record.fail("options", f"a letter query needs 2 to 26 options, got {len(options)}")
    return Query(record.text("qid"), t_q, record.text("text"), form, options)


def _target(record, queries):
    qid = record.text("qid")
    if qid not in queries:
        record.fail("qid", f"{qid!r} is not a query of this episode ({', '.join(queries)})")
    window = record.numbers("window", 2)
    if window[1] < window[0]:
        record.fail("window", f"ends at {window[1]:g}, before it begins at {window[0]:g}")
    query, answer = queries[qid], record.data.get("answer")
    answer = str(answer) if isinstance(answer, int) and not isinstance(answer, bool) else record.text("answer")
    for name, value in [("answer", answer)] + [(f"aliases[{i}]", a) for i, a in enumerate(record.strings("aliases", ()))]:
        problem = _bad_answer(value, query)
        if problem:
            record.fail(name, f"{value!r} {problem}")
    return Target(record.text("gid"), qid, record.number("t_star"), window, answer, record.strings("aliases", ()))


def _bad_answer(answer, query):
    if not answer.strip():
        return "is blank: nothing could ever match it"
    if query.answer_form == "letter":
        letters = [chr(65 + i) for i in range(len(query.options))]
        return None if answer in letters else f"is not an option letter ({letters[0]} to {letters[-1]})"
    if query.answer_form == "int":
        return None if answer.isdecimal() and integer(answer) is not None else "is not a whole number in digits"
    if query.answer_form == "yesno":
        return None if answer.casefold() in ("yes", "no") else "is neither yes nor no"
    return None


def _unique(record, name, key, values):
    for i, value in enumerate(values):
        if value in values[:i]:
            record.fail(f"{name}[{i}].{key}", f"{value!r} appears twice in this episode")


def episode_row(e):
    """An episode as the object of its line; `parse_episode` gives it back."""
    return {
        "episode_id": e.episode_id, "suite": e.suite, "task": e.task, "regime": e.regime, "video": e.video,
        "t_start": e.t_start, "t_end": e.t_end, "fps": e.fps,
        "queries": [
            {"qid": q.qid, "t_q": q.t_q, "text": q.text, "answer_form": q.answer_form,
             **({"options": list(q.options)} if q.options else {})}
            for q in e.queries
        ],
        "targets": [
            {"gid": t.gid, "qid": t.qid, "t_star": t.t_star, "window": list(t.window), "answer": t.answer,
             **({"aliases": list(t.aliases)} if t.aliases else {})}
            for t in e.targets
        ],
        "meta": e.meta,
    }  # fmt: skip
