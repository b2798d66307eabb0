"""How right each role of self-evolution was, by the world's own truth: `python -m evostreaming.tiny.audit RUN --videos DIR`.

For runs on clips of `tiny.pool` only. Nothing of it goes back into a run: it says which stage to look at when the gain does not come.
"""

import argparse
import json
from collections import defaultdict
from functools import cache
from pathlib import Path

from ..evolve.relevance import relevant
from .exchanges import is_relevant
from .lexicon import CATEGORIES
from .pool import scene_of
from .questions import TASKS, Asker
from .stage import RAMP
from .stretch import UNKNOWN

FROM = 0.5  # the stretch of a scene that questions are about begins here, as in the suite
LATE = 4.0  # seconds after which a true answer comes too late


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


@cache
def known(video: str, until: float) -> dict:
    """{text: [Question]} of all that the world can be asked about a clip that was watched up to `until` seconds, in any wording."""
    asker, found = Asker(scene_of(video), FROM, until), defaultdict(list)
    for question in (question for task in TASKS for question in asker.ask(task)):
        for text in {*question.texts(), *question.texts(True)}:
            found[text].append(question)
    return found


def ending(video):
    return scene_of(video).duration - 0.3


def truths(video, text, at):
    """{answer} that are right at `at` seconds, of the world's own question with that text; None when the world cannot be asked it then."""
    if text in known(video, ending(video)) or text in known(video, at):
        asked = known(video, at).get(text)
        return {plain(question.answer) for question in asked} if asked else None
    return None


def plain(text):
    return " ".join(text.lower().replace(".", " ").split())


class Tally:
    """Shares by category: how many of how many."""

    def __init__(self):
        self.right, self.all = defaultdict(int), defaultdict(int)

    def add(self, category, right):
        for name in (category, "all"):
            self.right[name] += bool(right)
            self.all[name] += 1

    def table(self):
        return {name: {"share": self.right[name] / self.all[name], "of": self.all[name]} for name in (*CATEGORIES, "all") if self.all[name]}


def classes(folder):
    """Videos that got the category of their genre."""
    tally = Tally()
    for row in rows(folder / "questions.jsonl"):
        genre = scene_of(row["video"]).category
        tally.add(genre, row["category"] == genre)
    return {"category is the genre's": tally}


def questions(folder):
    """Questions kept: can the world answer them about the very video, are they of the category wanted, is the model's answer true."""
    answerable, fitting, true = Tally(), Tally(), Tally()
    for row in rows(folder / "questions.jsonl"):
        for question in row["questions"]:
            found = known(row["video"], ending(row["video"])).get(question["text"], [])
            answerable.add(row["category"], any(q.answer != UNKNOWN for q in found))
            if found:
                fitting.add(row["category"], any(q.category == row["category"] for q in found))
                true.add(row["category"], plain(question["answer"]) in {plain(q.answer) for q in found})
    return {"world can answer it": answerable, "of the category": fitting, "answer after the video": true}


def relevance(folder, fps, share):
    """Segments of answerable questions, edges left out: decision against evidence, and its two kinds of error."""
    right, found_tally, kept_tally = Tally(), Tally(), Tally()
    for row in rows(folder / "relevance.jsonl"):
        for question, line in zip(row["questions"], row["relevant"]):
            line = relevant(line, share)
            asked = known(row["video"], ending(row["video"])).get(question["text"], [])
            if not asked or not asked[0].evidence:
                continue
            for part, yes in zip(row["segments"], line):
                truth = is_relevant(asked[0], [place / fps for place in part])
                if truth is not None:
                    right.add(row["category"], yes == truth)
                    if truth:
                        found_tally.add(row["category"], yes)
                    if yes:
                        kept_tally.add(row["category"], truth)
    return {"relevance": right, "relevant found": found_tally, "found is relevant": kept_tally}


def replies(trajectories, fps):
    """Replies of streams: is the text true at that moment; turns: does silence stand where nothing new could be said, speech where it
    could. What the world cannot be asked about this clip, borrowed questions most of all, is only counted."""
    asked_of, texts, spoken, silent = Tally(), Tally(), Tally(), Tally()
    for row in trajectories:
        if row["offline"]:
            continue
        category = "quiet" if row["quiet"] else row["category"]
        asked = next(turn["t"] for turn in row["turns"] if "query" in turn)
        query, options = put_with(next(turn["query"] for turn in row["turns"] if "query" in turn))
        told = row["quiet"] or truths(row["video"], query, ending(row["video"])) is not None
        asked_of.add(category, told)
        if not told:
            continue
        changes = moments(row["video"], query, asked, fps)
        changes = changes[:1] if options else changes  # what is put with options is answered once
        said = [turn["t"] for turn in row["turns"] if turn["reply"]]
        for turn in row["turns"]:
            if turn["reply"]:
                right = truths(row["video"], query, turn["t"])
                texts.add(category, right is not None and plain(options.get(turn["reply"], turn["reply"])) in right)
                spoken.add(category, any(0 <= turn["t"] - change <= LATE for change in changes))
        for change in changes:
            silent.add(category, any(0 <= t - change <= LATE for t in said))
    return {"world can be asked": asked_of, "reply is true": texts, "spoke when due": spoken, "due was said": silent}


def put_with(query):
    """(question, {letter: option}) of a question that may stand above lettered options."""
    question, *lines = query.split("\n")
    return question, dict(line.split(". ", 1) for line in lines if line[1:3] == ". ")


def moments(video, query, asked, fps):
    """Frame times from `asked` on at which the world's answer is new, a count of nothing aside: something is due there."""
    scene, last, found = scene_of(video), {"0"}, []
    for index in range(round(asked * fps), int(scene.duration * fps) + 1):
        at = index / fps
        if at > scene.duration - 0.3:
            break
        answer = (truths(video, query, max(at - RAMP, FROM + 0.1)) or set()) - {"not yet"}
        if answer and answer != last:
            found.append(at)
        last = answer or last
    return found


def audit(run: Path, videos: Path) -> dict:
    """{round: {what: {category: {"share", "of"}}}} of a run; raises ValueError for clips that `tiny.pool` did not make."""
    settings = json.loads((run / "run.json").read_text())
    strange = [path.name for path in sorted(videos.rglob("*.mp4")) if scene_of(path.name) is None]
    if strange:
        raise ValueError(f"{strange[0]} is no clip of tiny.pool: its truth is not known")
    out = {}
    for folder in sorted(run.glob("round_*")):
        made = [row for video in rows(folder / "rollouts.jsonl") for row in video["made"]]
        tallies = {
            **classes(folder),
            **questions(folder),
            **relevance(folder, settings["fps"], settings["relevance"]),
            **{f"{name} (made)": tally for name, tally in replies(made, settings["fps"]).items()},
            **replies(rows(folder / "trajectories.jsonl"), settings["fps"]),
        }
        out[folder.name] = {name: tally.table() for name, tally in tallies.items()}
    return out


def show(found: dict) -> str:
    lines = []
    for name, tallies in found.items():
        lines.append(f"{name:<28}" + "".join(f"{category:>12}" for category in (*CATEGORIES, "all")))
        for what, table in tallies.items():
            cells = [f"{table[c]['share']:.0%} of {table[c]['of']}" if c in table else "-" for c in (*CATEGORIES, "all")]
            lines.append(f"{what:<28}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--videos", type=Path, required=True)
    args = parser.parse_args()
    found = audit(args.run, args.videos)
    (args.run / "audit.json").write_text(json.dumps(found, indent=1) + "\n")
    print(show(found))


if __name__ == "__main__":
    main()
