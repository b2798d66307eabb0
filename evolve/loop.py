"""The whole loop: rounds of five stages, each of which goes on where it was left; a round starts from the model the last one tuned."""

import json
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

from ..engine.dialogue import Dialogue
from ..engine.errors import ArgumentError
from ..engine.locate import locate
from ..engine.streaming_format import FILE as FORMAT
from ..engine.streaming_format import StreamingFormat
from ..eval.journal import write_whole
from .classify import classify
from .crew import Here, OnRay
from .provenance import write_provenance
from .questions import write_questions
from .relevance import annotate
from .roles import Roles
from .rollout import roll_out, select
from .sequences import sequence
from .tune import Tuner
from .videos import find_videos
from .visual_cache import cache_features, read_features
from .wording import CATEGORIES, Prompts

STAGES = ("classify", "questions", "relevance", "rollout", "tune")
FILES = dict(zip(STAGES, ("classes.jsonl", "questions.jsonl", "relevance.jsonl", "rollouts.jsonl")))
ADAPTER = "adapter"


class Evolution:
    """model: checkpoint directory or name; videos: folder; out: folder of the run; settings: `Settings`; device as for `Engine`; ray:
    address of a cluster for stages 1 to 4, or None.

    progress(round, stage, done, of) is called as the work goes on.
    """

    def __init__(self, model, videos, out, settings, device="auto", ray=None, progress=None, evaluate=None):
        self.name, self.model, self.folder, self.out = str(model), locate(model), Path(videos), Path(out)
        self.settings, self.device, self.ray, self.evaluate = settings, own_device(device), ray, evaluate
        self.prompts = Prompts.read(settings.prompts)
        self.progress = progress or (lambda *state: None)
        self.videos = find_videos(self.folder)
        claim(self.out, {"model": str(model), "videos": str(videos), "prompts_sha": self.prompts.sha, **asdict(settings)})

    def run(self, stage=None):
        """All rounds; with `stage` up to that stage of the first unfinished one. Returns the last round's adapter, None if there is none.

        Calls `evaluate(round, adapter)`, if there is one, before the first round with (0, None) and after each.
        """
        adapter = None
        if self.evaluate and stage is None:
            self.evaluate(0, None)
        for number in range(1, self.settings.rounds + 1):
            folder = self.out / f"round_{number}"
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / ADAPTER / FORMAT).exists():
                roles = Roles(self.model, adapter, self.prompts, self.settings, self.folder, self.device, number)
                trajectories = self._collect(folder, roles, stage)
                if stage not in (None, "tune"):
                    return None
                self._tune(folder, roles, trajectories)
            adapter = folder / ADAPTER
            if self.evaluate and stage is None:
                self.evaluate(number, adapter)
        return adapter

    def _collect(self, folder, roles, stage):
        """Stages 1 to 4, at most up to `stage`; the selected trajectories."""
        provenance = {
            "model": Path(self.model).name, "adapter": roles.adapter and str(roles.adapter.relative_to(self.out)), "round": roles.number,
            "seed": self.settings.seed, "prompts_sha": self.prompts.sha,
        }  # fmt: skip
        crew, rows = OnRay(self.ray, roles) if self.ray else Here(roles), self.videos
        first = partial(classify, mix=self.settings.mix, seed=f"{self.settings.seed} {roles.number}")
        try:
            for name, work in zip(STAGES, (first, write_questions, annotate, partial(roll_out, provenance=provenance))):
                rows = work(crew, rows, folder / FILES[name], progress=partial(self.progress, roles.number, name))
                if name == stage:
                    break
        finally:
            crew.close()
        if stage in STAGES[:3]:
            return []
        chosen = select(rows, self.settings.samples, self.settings.quiet_share, CATEGORIES, self.settings.offline_share)
        write_whole(folder / "trajectories.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen).encode())
        return chosen

    def _examples(self, roles, trajectories):
        """[(Sequence, features())] of the trajectories; each video is seen by the tower once."""
        engine, fps = roles.engine, self.settings.fps
        dialogue = Dialogue(engine.dialogue.turn, engine.streaming, self.settings.history)
        spatial = engine.config.decoder.mrope_section is not None
        examples = []
        self.progress(roles.number, "features", 0, len(trajectories))
        for done, trajectory in enumerate(trajectories, 1):
            file = cache_features(engine, self.folder / trajectory["video"], fps, self.out / "features")
            held = read_features(file)
            places = [min(round(turn["t"] * fps), len(held.tokens) - 1) for turn in trajectory["turns"]]
            grids = [(held.tokens.shape[1], held.grid)] * len(places)
            made = sequence(trajectory["turns"], dialogue, trajectory["system"], grids, spatial, trajectory["offline"])
            examples.append((made, Reader(file, places)))
            self.progress(roles.number, "features", done, len(trajectories))
        return examples

    def _tune(self, folder, roles, trajectories):
        examples = self._examples(roles, trajectories)
        silence, marker = roles.engine.streaming.silence, roles.engine.streaming.reply_marker
        streaming = StreamingFormat(silence, marker, self.settings.history, self.prompts.stream_system.format(silence=silence))
        roles.unload()
        out = folder / ADAPTER
        device = "cpu" if self.device == "cpu" else None
        on_step = lambda row: self.progress(roles.number, "tune", row["step"], row["of"])  # noqa: E731
        tuner = Tuner(self.model, examples, out, self.settings.tuning, roles.adapter, device, on_step)
        self.progress(roles.number, "tune", 0, tuner.steps)
        log = tuner.run()
        if tuner.accelerator.is_main_process:
            write_whole(folder / "losses.jsonl", "".join(json.dumps(row) + "\n" for row in log).encode())
            about = self.settings, roles.number, self.prompts, folder / "trajectories.jsonl"
            write_provenance(out, self.name, self.model, *about)
            write_whole(out / FORMAT, (json.dumps(asdict(streaming), indent=1) + "\n").encode())  # last: it says that the round is done
        tuner.accelerator.wait_for_everyone()


def own_device(device):
    """The device of this process: under torchrun each has a GPU of its own."""
    if device == "auto" and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    if device.startswith("cuda:") and torch.cuda.is_available():
        torch.cuda.set_device(device)  # where accelerate will put the decoder
    return device


def claim(out, about):
    """Write what this run is to run.json, or compare with what is there. Raises ArgumentError naming the differences."""
    about, file = json.loads(json.dumps(about)), out / "run.json"
    out.mkdir(parents=True, exist_ok=True)
    if file.exists():
        held = flat(json.loads(file.read_text()))
        wanted = [(name, value) for name, value in flat(about).items() if name != "rounds"]  # more rounds may follow
        other = [f"{name} {held.get(name)!r}, not {value!r}" for name, value in wanted if held.get(name) != value]
        if other:
            raise ArgumentError(f"{out} is a run with {'; '.join(other)}; give another --out, or the same settings")
    write_whole(file, (json.dumps(about, indent=1) + "\n").encode())


def flat(about):
    """The same with the settings of tuning among the others."""
    return {name: value for name, value in about.items() if name != "tuning"} | about["tuning"]


class Reader:
    """Features of some frames of a file, read when they are needed: (tokens (V, h), deepstack (S, V, h) or None)."""

    def __init__(self, file, places):
        self.file, self.places = file, places

    def __call__(self):
        held = read_features(self.file)
        deepstack = None if held.deepstack is None else held.deepstack[:, self.places].flatten(1, 2)
        return held.tokens[self.places].flatten(0, 1), deepstack
