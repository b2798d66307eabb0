"""What a round came to, from its files alone: how many were left after each stage and why, and how varied what is left is."""

from collections import Counter
from pathlib import Path

from .loop import FILES
from .relevance import relevant
from .rows import read_rows
from .wording import CATEGORIES, normalized


def summarize(folder, share):
    """The figures of `folder`, a round's, as JSON values. share: `relevance` of the settings."""
    folder = Path(folder)
    classes, questions, annotated, rolled = (read_rows(folder / file) for file in FILES.values())
    chosen, losses = read_rows(folder / "trajectories.jsonl"), read_rows(folder / "losses.jsonl")
    skipped = Counter(row["stage"] for row in read_rows(folder / "skipped.jsonl"))
    decided = [yes for row in annotated for line in row["relevant"] for yes in relevant(line, share)]
    made = [trajectory for row in rolled for trajectory in row["made"]]
    return {
        "videos": len(classes) + skipped["classify"],
        "classified": len(classes),
        "questions": sum(len(row["questions"]) for row in questions),
        "questions_refused": total(row["refused"] for row in questions),
        "segments": len(decided),
        "relevant_segments": sum(decided),
        "trajectories_made": len(made),
        "trajectories_refused": total(row["refused"] for row in rolled),
        "trajectories": len(chosen),
        "skipped": dict(skipped),
        "categories": {name: category(chosen, name) for name in CATEGORIES},
        "quiet": sum(kind(row) == "quiet" for row in chosen),
        "offline": sum(kind(row) == "offline" for row in chosen),
        "answer_rate": answer_rate([row for row in chosen if kind(row) != "offline"]),
        "distinct": {
            "questions": distinct(turn["query"] for row in chosen for turn in row["turns"] if "query" in turn),
            "replies": distinct(turn["reply"] for row in chosen for turn in row["turns"] if turn["reply"]),
        },
        "tuning": tuning(losses),
    }


def total(counts):
    return dict(sum((Counter(each) for each in counts), Counter()).most_common())


def kind(row):
    """What a trajectory is counted as: "quiet", "offline", or its category where the event of a stream comes."""
    return next((name for name in ("quiet", "offline") if row[name]), row["category"])


def category(rows, name):
    """Streams of a category whose event comes, and their replies."""
    mine = [row for row in rows if kind(row) == name]
    return {"trajectories": len(mine), "replies": sum(bool(turn["reply"]) for row in mine for turn in row["turns"])}


def answer_rate(rows):
    """Share of the turns from the question on that speak, None without any."""
    turns = [turn for row in rows for turn in row["turns"][asked(row) :]]
    return sum(bool(turn["reply"]) for turn in turns) / len(turns) if turns else None


def asked(row):
    """Which turn of a trajectory brings the question."""
    return next(index for index, turn in enumerate(row["turns"]) if "query" in turn)


def distinct(texts):
    """Share of n-grams that are not said before, for n of 1 and 2 (Li et al. 2016): falls towards 0 where a model repeats itself."""
    grams = {1: [], 2: []}
    for text in texts:
        words = normalized(text).split()
        for n, found in grams.items():
            found += zip(*(words[i:] for i in range(n)))
    return {f"distinct_{n}": len(set(found)) / len(found) if found else None for n, found in grams.items()}


def tuning(losses):
    if not losses:
        return None
    held_out = [row["held_out"] for row in losses if "held_out" in row]
    return {
        "steps": len(losses), "first_loss": losses[0]["loss"], "last_loss": losses[-1]["loss"], "held_out": min(held_out, default=None),
        "seconds": sum(row["seconds"] for row in losses), "tokens": sum(row["tokens"] for row in losses),
    }  # fmt: skip
