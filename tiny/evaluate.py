"""Offline accuracy of the model on scenes it never saw: `python -m evostreaming.tiny.evaluate DIR`.

An answer counts when every token of it is the most likely one, which is exactly when greedy decoding gives it word for word.
"""

import argparse
import json
import random
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import torch

from .batches import Collator
from .checkpoint import load
from .corpus import single
from .exchanges import good_questions
from .pixels import paint
from .questions import TASKS, Asker

# What the headline averages over: everything with one right answer. Captions and stories are exact-match lines of their own.
SCORED = (*TASKS, "relevant", "classify")
TOLD = ("caption", "story")
FRAMES = (1, 2, 4, 8, 12, 16, 24, 32)


def examples(split: str, held_out: bool, per_task: int, seed: int = 0, tasks=(*SCORED, *TOLD), frame_counts=FRAMES) -> dict:
    """`{frames: [Conversation with one exchange]}`, the same for the same arguments. `held_out` asks in wordings training never used."""
    groups = defaultdict(list)
    for task in tasks:
        rng = random.Random(f"evaluation {seed} {split} {task}")
        for _ in range(per_task):
            for _ in range(4000):
                talk = single(rng, split, task, rng.choice(frame_counts), held_out)
                if talk:
                    groups[len(talk.times)].append(talk)
                    break
            else:
                raise RuntimeError(f"the world gave no question of task {task!r} in 4000 draws")
    return groups


@torch.no_grad()
def score(model, tokenizer, groups: dict, device="cpu") -> list[tuple]:
    """`(task, form, options, right)` for each example."""
    collate, out = Collator(tokenizer), []
    for frames in sorted(groups):
        size = max(512 // frames, 8)
        for i in range(0, len(groups[frames]), size):
            talks = groups[frames][i : i + size]
            batch = collate(talks).to(device)
            with _precision(device):
                right = model(batch, paint(batch, spoil=False)).argmax(-1) == batch.target
            row = batch.where // batch.ids.shape[1]
            wrong = torch.zeros(len(talks), device=device).index_add_(0, row, (~right).float())
            for talk, missed in zip(talks, wrong.tolist()):
                one = talk.exchanges[0]
                out.append((one.task, one.form, len(one.options), missed == 0))
    return out


def table(rows: list[tuple]) -> dict:
    """Accuracy per task, over lettered questions, and `overall`: the mean over the scored tasks, each counting the same."""
    share = {}
    for task in (*SCORED, *TOLD):
        hits = [right for name, _, _, right in rows if name == task]
        if hits:
            share[task] = sum(hits) / len(hits)
    letters = [(right, 1 / options) for _, form, options, right in rows if form == "letter"]
    scored = [v for k, v in share.items() if k in SCORED]
    out = {"overall": sum(scored) / len(scored), "examples": len(rows), "tasks": share}
    if letters:
        out |= {"lettered": sum(r for r, _ in letters) / len(letters), "lettered_chance": sum(c for _, c in letters) / len(letters)}
    return out


@torch.no_grad()
def asked_well(model, tokenizer, split: str, many: int, device="cpu", longest: int = 40) -> float:
    """Share of the questions the model asks, greedily, that the world can answer about that very video in the category wanted."""
    rng, collate, good = random.Random(f"asking {split}"), Collator(tokenizer), 0
    talks = []
    while len(talks) < many:
        talk = single(rng, split, "ask", 16, held_out=False)
        if talk:
            talks.append(talk)
    end = tokenizer.token_to_id("<|im_end|>")
    for talk in talks:
        answer = talk.pieces.index((talk.exchanges[0].answer + "<|im_end|>", True, 0))
        talk.pieces, said = talk.pieces[:answer], []
        while len(said) < longest:
            batch = collate([_with_one_to_learn(talk, tokenizer, said)]).to(device)
            with _precision(device):
                said.append(int(model(batch, paint(batch, spoil=False))[-1].argmax()))
            if said[-1] == end:
                break
        asker = Asker(talk.scene, talk.times[0], talk.times[-1])
        questions = good_questions(asker, talk.exchanges[0].options[0])
        good += tokenizer.decode(said[:-1]) in {t for q in questions for held in (False, True) for t in q.texts(held)}
    return good / many


def _with_one_to_learn(talk, tokenizer, said):
    """The conversation so far with a placeholder where the next token is wanted."""
    copy = type(talk)(talk.scene, talk.times, list(talk.pieces), talk.exchanges)
    if said:
        copy.say(tokenizer.decode(said, skip_special_tokens=False))
    copy.say("<|im_end|>", learned=True)
    return copy


def _precision(device):
    return torch.autocast("cuda", torch.bfloat16) if str(device).startswith("cuda") else nullcontext()


def held_out(model, tokenizer, per_task: int, device="cpu") -> dict:
    """Accuracy where seeds, color-shape pairs, background and wording are all held out."""
    return table(score(model, tokenizer, examples("test", True, per_task), device))


def report(model, tokenizer, per_task: int, device="cpu") -> dict:
    """The table that is shipped: everything held out at once, and fresh scenes of the training kind."""
    model.eval()
    out = {
        "held_out": held_out(model, tokenizer, per_task, device),
        "fresh": table(score(model, tokenizer, examples("fresh", False, per_task), device)),
    }
    out["asked_well"] = asked_well(model, tokenizer, "test", min(per_task, 50), device)
    model.train()
    return out


def write(result: dict, log: Path) -> None:
    """Put the accuracy into a training log that is there already."""
    log.write_text(json.dumps(json.loads(log.read_text()) | {"accuracy": result}, indent=1) + "\n")


def show(result: dict) -> str:
    lines = [f"{'task':<12} {'held out':>9} {'fresh':>7}"]
    for task in result["held_out"]["tasks"]:
        lines.append(f"{task:<12} {result['held_out']['tasks'][task]:9.1%} {result['fresh']['tasks'][task]:7.1%}")
    for key in ("lettered", "lettered_chance", "overall"):
        lines.append(f"{key:<12} {result['held_out'][key]:9.1%} {result['fresh'][key]:7.1%}")
    return "\n".join([*lines, f"asked well {result['asked_well']:.1%}"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--per-task", type=int, default=20)
    parser.add_argument("--log", type=Path, help="the training.json to put the result into")
    parser.add_argument("--held-out", action="store_true", help="only the accuracy on what is held out, which is a third of the work")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, tokenizer = load(args.folder)
    if args.held_out:
        told = {"held_out": held_out(model.to(device).eval(), tokenizer, args.per_task, device)}
        print(json.dumps(told) if args.json else f"{told['held_out']['overall']:.1%}")
        return
    result = report(model.to(device), tokenizer, args.per_task, device)
    if args.log:
        write(result, args.log)
    print(json.dumps(result) if args.json else show(result))


if __name__ == "__main__":
    main()
