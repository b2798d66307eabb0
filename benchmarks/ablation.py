"""What each part of self-evolution is worth: a finished run again with one thing changed, many runs side by side, one table.

Every variation keeps the questions and the relevance of the finished run, and its roll-outs too where the change comes after them. Runs of
a small model leave a GPU idle, so several share one. A row is written when a run ends; the same command goes on where it was stopped.
"""

import argparse
import json
import os
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from evostreaming.engine.errors import ArgumentError
from evostreaming.eval.sweep_model import engine_commit
from evostreaming.evolve.rows import read_rows
from evostreaming.evolve.tables import SCORES, read_score

SIZES, SEEDS, ROUNDS, WINDOW = (100, 300, 1000, 3000), 3, 3, 8
ANNOTATED = ("classes.jsonl", "questions.jsonl", "relevance.jsonl", "skipped.jsonl")
ROLLED = (*ANNOTATED, "rollouts.jsonl")
ROWS = "ablation.jsonl"
BASE = "as it was run"


@dataclass(frozen=True)
class Variation:
    """`changes`: settings that differ, those of tuning under "tuning"; `reuse`: files of round 1 that stay, None for all of the round."""

    name: str
    changes: dict
    reuse: tuple | None

    @property
    def folder(self):
        return "".join(letter if letter.isalnum() else "_" for letter in self.name)

    @property
    def known(self):
        """Rounds whose scores the finished run has already."""
        return 0 if self.reuse is not None else 1


def variations(about):
    """What is varied round the settings of a run, those that take longest first."""
    seed, window, balance = about["seed"], about["window"], about["tuning"]["loss_balance"]
    found = [Variation(f"{ROUNDS} rounds", {"rounds": ROUNDS}, None)]
    found += [Variation(f"{size:,} trajectories", {"samples": size}, ROLLED) for size in SIZES[::-1] if size != about["samples"]]
    for other in range(seed + 1, seed + SEEDS):
        found.append(Variation(f"seed {other}", {"seed": other, "tuning": {"seed": other}}, ANNOTATED))
    for other in ("none", "inverse", "focal"):
        if other != balance:
            found.append(Variation(f"loss balance {other}", {"tuning": {"loss_balance": other}}, ROLLED))
    pruned = f"pruned to {WINDOW} silent turns"
    found.append(Variation("without pruning" if window else pruned, {"window": 0 if window else WINDOW}, ANNOTATED))
    for part, name in (("choices", "options"), ("offline_share", "offline questions")):
        if about[part]:
            found.append(Variation(f"without {name}", {part: 0.0}, ANNOTATED))
    sure = about["consistency"]
    found.append(Variation(f"with{'out' if sure else ''} self-consistency", {"consistency": not sure}, ANNOTATED))
    return found


def prepare(base, folder, about, variation):
    """The folder of a variation: the settings with its changes, and what it takes over from the run in `base`."""
    changes = variation.changes | {"tuning": about["tuning"] | variation.changes.get("tuning", {})}
    first = folder / "round_1"
    if (folder / "run.json").exists():
        return
    if variation.reuse is None:
        shutil.copytree(base / "round_1", first, dirs_exist_ok=True)
    else:
        first.mkdir(parents=True, exist_ok=True)
        for name in variation.reuse:
            if (base / "round_1" / name).exists():
                shutil.copy(base / "round_1" / name, first / name)
    features = folder / "features"
    if not features.is_symlink():
        (base / "features").mkdir(exist_ok=True)
        features.symlink_to((base / "features").resolve())  # a frame's tokens are the same in all of them
    (folder / "run.json").write_text(json.dumps(about | changes, indent=1) + "\n")  # last: it says that the folder is whole


def row(name, number, folder, about, seconds=None):
    """A line of the table: round `number` of the run in `folder`."""
    return {
        "name": name, "round": number, "trajectories": len(read_rows(folder / f"round_{number}" / "trajectories.jsonl")),
        "scores": read_score(folder / "scores" / f"round_{number}"), "seconds": seconds, "settings": about, "commit": engine_commit(),
    }  # fmt: skip


def ablate(base, out, suite, data, device, processes, only=None, say=print):
    """Run what is missing of all variations of the run in `base`; rows go to `out`/ablation.jsonl. Returns the table as text.

    processes: runs side by side on a GPU; only: parts of the names of the variations to be run. Raises ArgumentError for a run that is
    not finished and evaluated.
    """
    base, out = Path(base), Path(out)
    if not (base / "scores" / "round_1" / "scores.json").exists():
        raise ArgumentError(f"{base} holds no scores of a first round; finish it with --evaluate, then vary it")
    about = json.loads((base / "run.json").read_text())
    about["rounds"], out = 1, out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    file = out / ROWS
    if not file.exists():
        append(file, row("before", 0, base, about))
        append(file, row(BASE, 1, base, about))
    wanted = [each for each in variations(about) if not only or any(part in each.name for part in only)]
    missing = [each for each in wanted if not done(file, each.name, each.changes.get("rounds", 1))]
    slots, running = queue.SimpleQueue(), []
    places = [gpu for _ in range(processes) for gpu in gpus()]
    for gpu in places:
        slots.put(gpu)

    def work(variation):
        folder, gpu = out / variation.folder, slots.get()
        try:
            prepare(base, folder, about, variation)
            told = [str(folder), variation.name, str(variation.known), suite, str(data or ""), device]
            environment = {"OMP_NUM_THREADS": "1", **os.environ} | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
            with open(folder / "log.txt", "ab") as log:
                process = subprocess.Popen([sys.executable, "-m", __spec__.name, *told], env=environment, stdout=log, stderr=log)
                running.append(process)
                return process.wait()
        finally:
            slots.put(gpu)

    began = time.monotonic()
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pool = ThreadPoolExecutor(max(len(places), 1))
    try:
        going = {pool.submit(work, each): each for each in missing}
        for ended in as_completed(going):
            name, code = going[ended].name, ended.result()
            tail = "" if not code else (out / going[ended].folder / "log.txt").read_text().strip().splitlines()[-1:]
            say(f"{time.monotonic() - began:.0f} s  {name}: {'done' if not code else f'exit code {code}: {tail}'}")
            for line in (line for line in read_rows(file) if line["name"] == name):
                say(f"  {markdown_row(line)}")
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in running:
            process.terminate()
        signal.signal(signal.SIGTERM, before)
        text = table(read_rows(file))
        say(text)
    return text


def append(file, made):
    """Add a line, whole and on the disk, to a file that several processes write."""
    with open(file, "ab") as held:
        held.write((json.dumps(made, ensure_ascii=False) + "\n").encode())
        held.flush()
        os.fsync(held.fileno())


def done(file, name, number):
    return any(line["name"] == name and line["round"] == number for line in read_rows(file))


def gpus():
    """Names of the GPUs to be used, [None] for a machine without one."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    return found if torch.cuda.is_available() else [None]


def markdown_row(line):
    scores = line["scores"] or dict.fromkeys(SCORES)
    cells = ["-" if scores[name] is None else f"{scores[name]:.1f}" for name in SCORES]
    name = line["name"] if line["round"] < 2 else f"{line['name']}: after {line['round']}"
    took = "" if line["seconds"] is None else f"{line['seconds']:.0f}"
    return f"| {' | '.join([name, str(line['trajectories'] or ''), *cells, took])} |"


def table(lines):
    """All rows in Markdown, and the mean and the standard deviation over the seeds."""
    head = f"| | trajectories | {' | '.join(SCORES.values())} | seconds |"
    text = [head, "|---" * (head.count("|") - 1) + "|", *map(markdown_row, lines)]
    seeds = [line["scores"] for line in lines if line["scores"] and (line["name"] == BASE or line["name"].startswith("seed "))]
    if len(seeds) > 1:
        cells = []
        for name in SCORES:
            values = [scores[name] for scores in seeds if scores[name] is not None]
            cells.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else "-")
        text.append(f"| {len(seeds)} seeds | | {' | '.join(cells)} | |")
    return "\n".join(text)


def main():
    """One variation, in a process of its own: its folder says what it is."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("known", type=int)
    parser.add_argument("suite")
    parser.add_argument("data")
    parser.add_argument("device")
    asked = parser.parse_args()
    from evostreaming.evolve.loop import Evolution
    from evostreaming.evolve.progress import Bars
    from evostreaming.evolve.scores import Scores
    from evostreaming.evolve.settings import Settings
    from evostreaming.evolve.tune import Tuning

    about = json.loads((asked.folder / "run.json").read_text())
    values = {name: value for name, value in about.items() if name not in ("model", "videos", "prompts_sha")}
    settings = Settings(**values | {"tuning": Tuning(**values["tuning"])})
    began, file = time.monotonic(), asked.folder.parent / ROWS
    with Bars() as bars:
        data = Path(asked.data) if asked.data else None
        scores = Scores(about["model"], asked.folder, asked.suite, data, asked.device, settings.tokens_per_frame, bars.aside)

        def evaluate(number, adapter):
            if number <= asked.known or done(file, asked.name, number):
                return
            try:
                scores(number, adapter)
            finally:  # without the offline accuracy the other scores are still worth their row
                made = row(asked.name, number, asked.folder, about, time.monotonic() - began)
                if made["scores"]:
                    append(file, made)

        Evolution(about["model"], about["videos"], asked.folder, settings, asked.device, None, bars, evaluate).run()


if __name__ == "__main__":
    main()
