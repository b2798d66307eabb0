"""Stages 4 and 5 of self-evolution at real size, from a slice: the product's own code on random weights, projected to 1,000 trajectories.

Random weights have nothing to say and would never stop: every answer is a fixed number of tokens, and counts as something new. What there
is of videos, turns and questions is typical and stands in the constants below.
"""

import json
import random
import tempfile
import time
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from evostreaming.engine.config import ModelConfig
from evostreaming.engine.device import choose_device, choose_dtype
from evostreaming.engine.dialogue import Dialogue
from evostreaming.engine.engine import Engine
from evostreaming.engine.gate import Gate
from evostreaming.engine.locate import locate
from evostreaming.engine.pixels import grid
from evostreaming.engine.prompts import TurnFormat
from evostreaming.engine.streaming_format import StreamingFormat
from evostreaming.evolve import tune
from evostreaming.evolve.crew import Here
from evostreaming.evolve.loop import Reader
from evostreaming.evolve.relevance import segments
from evostreaming.evolve.roles import Roles
from evostreaming.evolve.rollout import act
from evostreaming.evolve.sequences import sequence
from evostreaming.evolve.settings import Settings
from evostreaming.evolve.tunable import TunableDecoder
from evostreaming.evolve.wording import CATEGORIES, Prompts

from .bench_video import make_file
from .floors import decoder_weights, measure_ceilings
from .random_checkpoint import published_config, random_engine, read_config, turn_format
from .reference_models import random_reference
from .workload import frame_shape, visual_tokens

FPS, TOKENS_PER_FRAME, HEIGHT = 0.5, 128, 480
TURNS, WARM_UP = (60, 80, 100, 120), 10  # of a stream, and of those that are not counted
REPLY, EVERY = 10, 10  # tokens of a reply, and the turns of a trajectory that have one
QUESTION, SYSTEM = "What is it now?", "Watch. Say it or SILENT."  # the stand-in tokenizer has a token for every byte
RELEVANT = 0.3  # share of the segments that a question needs
KEPT = 2.0  # trajectories a video gives; on the built-in world 3.4 are made of each
WANTED = 1000
PEAK = {"H200": 989.5e12, "H100": 989.5e12, "A100": 312e12}  # FLOP/s of bfloat16 products without sparsity, by the data sheet


class Watched(Roles):
    """The roles on an engine that is there. What random weights say is replaced by something new."""

    said = 0

    def answer(self, streams, questions):
        super().answer(streams, questions)
        self.said += len(questions)
        return [f"answer {self.said - place}" for place in range(len(questions))]


def rollout(model, size, videos, turns=TURNS, device="auto", say=print):
    """Stage 4 on `videos` videos side by side, the next as many decoded meanwhile; `model` is a checkpoint, None for random weights of
    `size`. Returns the figures as a dict."""
    settings = Settings(batch=videos, fps=FPS, tokens_per_frame=TOKENS_PER_FRAME, max_answer=REPLY)
    options = {
        "device": device, "history": "replies", "gate": Gate("greedy"), "max_streams": 2 * videos,
        "tokens_per_frame": TOKENS_PER_FRAME, "max_reply": REPLY,
    }  # fmt: skip
    engine = Engine.from_pretrained(model, **options) if model else random_engine(size, **options)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        roles = Watched(model or size, None, Prompts.read(), settings, folder, device, 1)
        roles.engine = engine
        warm, measured, following = (pool(folder, name, videos, each) for name, each in zip("abc", ((WARM_UP,), turns, turns)))
        work = Here(roles).map(act, [warm, measured, following], ({},))
        began = time.perf_counter()
        next(work)
        wait(roles.ahead.values())  # of the measured group: in a long run they are decoded beside a group as long
        say(f"warm-up: {time.perf_counter() - began:.1f} s, {engine.captures[0]} CUDA graphs")
        roles.said, began = 0, time.perf_counter()
        made = next(work)
        worked = time.perf_counter() - began
        wait(roles.ahead.values())
        waited = time.perf_counter() - began - worked
    steps = sum(1 + part[-1] for part in (row["segments"][-1] for row in measured))
    assert all("made" in row for row in made.values()), made
    seconds = (worked + waited) / (KEPT * videos) * WANTED
    result = {
        "videos": videos, "turns": steps, "answers": roles.said, "seconds": worked, "waited_for_video": waited,
        "turns_per_second": steps / worked, "graphs": engine.captures[0], "projected_minutes": seconds / 60,
    }  # fmt: skip
    say(
        f"{videos} videos, {steps} turns and {roles.said} answers of {REPLY} tokens in {worked:.1f} s ({steps / worked:.0f} turns/s); "
        f"then waited {waited:.1f} s for the next videos ({HEIGHT}p, decoded meanwhile)"
    )
    say(f"{WANTED:,} trajectories, {KEPT:g} of a video: {seconds / 60:.1f} minutes on one GPU (target 30)")
    return result


def pool(folder, group, videos, turns):
    """Rows of stage 3 for `videos` files of these `turns`: five kinds of question in turn, four of each kind, each needs some segments."""
    rows, rng = [], random.Random(f"speed {group}")
    for place in range(videos):
        count = turns[place % len(turns)]
        name = f"{group}-{place}.mp4"
        (folder / name).symlink_to(make_file(folder, "h264", HEIGHT, int(count / FPS)))
        parts = segments([turn / FPS for turn in range(count)], 4.0)
        lines = [[float(rng.random() < RELEVANT) for _ in parts] for _ in range(4)]
        questions = [{"text": QUESTION, "answer": "x", "others": []} for _ in lines]
        foreign = {"text": QUESTION, "relevant": [0.0] * len(parts)}
        category = CATEGORIES[place % len(CATEGORIES)]
        row = {"video": name, "category": category, "questions": questions, "borrowed": None, "foreign": foreign}
        rows.append({**row, "segments": parts, "relevant": lines})
    return rows


@dataclass(frozen=True)
class Work:
    """FLOP of a forward pass over some trajectories: of products with the decoder's weights and of attention for all tokens, of the head at
    the learned ones."""

    weights: float
    attention: float
    head: float

    @property
    def model(self):
        """Forward and backward. Frozen weights need no gradient, so theirs is one product; those of attention have two operands that do."""
        return 2 * self.weights + 3 * self.attention + 2 * self.head

    @property
    def done(self):
        """The same with the second forward of gradient checkpointing."""
        return self.model + self.weights + self.attention


def work_of(decoder, lengths, learned, pairs=None):
    """`Work` of sequences of `lengths` tokens with `learned` targets in all. Attention counts `pairs` that are seen, None for causal."""
    pairs = sum(length * (length + 1) / 2 for length in lengths) if pairs is None else pairs
    attention = 4 * decoder.heads * decoder.head_dim * decoder.layers * pairs
    return Work(2 * decoder_weights(decoder) * sum(lengths), attention, 2 * decoder.vocab * decoder.hidden * learned)


def seen_pairs(branch):
    """Pairs of a token and one that it sees: all before it of the stream and of its own branch, itself included. branch (L,) int64."""
    own = branch[branch > 0].bincount().double()
    return int((branch == 0).cumsum(0).sum()) + float((own * (own + 1) / 2).sum())


def tuning(model, size, trajectories, turns=TURNS, device="auto", say=print, history="full", profile=False, **options):
    """Stage 5 on that many trajectories, after a first batch that is not counted; `model` and `size` as for `rollout`, options for `Tuner`.

    profile: whether one more batch is taken apart by kernels.
    """
    where = choose_device(device)
    dtype = choose_dtype("auto", where)
    config = ModelConfig.from_directory(locate(model)) if model else published_config(size)
    form = TurnFormat(locate(model), config.turn) if model else turn_format(size)
    settings = tune.Tuning(held_out=0.0)
    count = settings.batch + trajectories + (settings.batch if profile else 0)
    kernels = Kernels(where)
    log = []

    def show(row):
        log.append(row)
        say(
            f"batch {row['step']} of {row['of']}: {row['tokens']} tokens and {row['padding']} of padding in {row['seconds']:.1f} s, "
            f"{100 * row['recomputed']:.0f} % of the layers computed twice"
        )
        if profile and row["step"] == row["of"] - 1:
            kernels.start()
        elif profile and row["step"] == row["of"]:
            kernels.stop(say)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        examples = [example(folder, config, form, turns[i % len(turns)], dtype, history) for i in range(count)]
        checkpoint = locate(model) if model else folder
        if model is None:
            (folder / "config.json").write_text(json.dumps(read_config(size)[0]))  # where PEFT looks for the size of the vocabulary
            tune.load_tunable = partial(random_tunable, size)
        own = "cpu" if where.type == "cpu" else None
        tune.Tuner(checkpoint, examples, folder / "adapter", settings, None, own, show, **options).run()
    peak_bytes = torch.cuda.max_memory_allocated() if where.type == "cuda" else 0
    lengths, learned = [len(made) for made, _ in examples], sum(int((made.learned > 0).sum()) for made, _ in examples)
    whole = work_of(config.decoder, lengths, learned, sum(seen_pairs(made.branch) for made, _ in examples))
    measured = log[1:-1] if profile else log[1:]
    tokens, seconds, padding = (sum(row[name] for row in measured) for name in ("tokens", "seconds", "padding"))
    twice = sum(row["recomputed"] * row["tokens"] for row in measured) / tokens
    share, rate = tokens / sum(lengths), measure_ceilings(where, dtype).flops
    done = whole.model + twice * (whole.done - whole.model)
    name = torch.cuda.get_device_name() if where.type == "cuda" else "cpu"
    peak = next((value for part, value in PEAK.items() if part in name), rate)
    epoch = seconds / tokens * sum(lengths) / len(lengths) * WANTED
    result = {
        "device": name, "trajectories": trajectories, "history": history, "tokens": tokens, "padding": padding, "seconds": seconds,
        "first_batch_seconds": log[0]["seconds"], "tokens_per_second": tokens / seconds, "recomputed": twice,
        "mfu": whole.model * share / seconds / peak, "with_checkpointing": done * share / seconds / peak, "peak_bytes": peak_bytes,
        "peak_flops": peak, "product_flops": rate, "projected_minutes": epoch / 60,
    }  # fmt: skip
    say(
        f"{trajectories} trajectories, {tokens} tokens in {seconds:.1f} s after a first batch of {log[0]['seconds']:.1f} s; "
        f"{100 * padding / (tokens + padding):.1f} % of the rows is padding, {100 * twice:.0f} % of the layers are computed twice, "
        f"at most {peak_bytes / 2**30:.1f} GiB"
    )
    say(
        f"{tokens / seconds:.0f} tokens/s, {100 * result['mfu']:.1f} % of {peak / 1e12:.0f} TFLOP/s go into the decoder (target 40), "
        f"{100 * result['with_checkpointing']:.1f} % into it and what is done twice; a large product reaches {100 * rate / peak:.0f} %"
    )
    say(f"one epoch of {WANTED:,} trajectories: {epoch / 60:.1f} minutes on one GPU (target 45)")
    return result


class Kernels:
    """Where the time of a stretch of work goes: a line a kernel, the slowest first."""

    def __init__(self, device):
        gpu = device.type == "cuda"
        kind = torch.profiler.ProfilerActivity.CUDA if gpu else torch.profiler.ProfilerActivity.CPU
        self.field = "self_device_time_total" if gpu else "self_cpu_time_total"
        self.profiler = torch.profiler.profile(activities=[kind])

    def start(self):
        self.profiler.start()

    def stop(self, say, lines=25):
        self.profiler.stop()
        spent = [(getattr(each, self.field), each.count, each.key) for each in self.profiler.key_averages()]
        whole = sum(each[0] for each in spent)
        say(f"{whole / 1e6:.2f} s in kernels")
        for time_spent, count, key in sorted(spent, reverse=True)[:lines]:
            say(f"{100 * time_spent / whole:5.1f} %  {time_spent / 1e3:9.1f} ms  {count:6} x  {key[:110]}")


def example(folder, config, form, turns, dtype, history="full"):
    """(Sequence, features()) of a trajectory as the loop makes them, on tokens of noise in a file of their own."""
    seen, count = visual_tokens(config.pixels, frame_shape(config.pixels, TOKENS_PER_FRAME), TOKENS_PER_FRAME)
    merged = tuple(length // config.pixels.merge for length in grid(config.pixels, *seen))
    rows = [{"t": turn / FPS, "reply": "x" * (REPLY - 1) if turn % EVERY == EVERY - 1 else None} for turn in range(turns)]
    rows[0]["query"] = QUESTION
    spatial = config.decoder.mrope_section is not None
    made = sequence(rows, Dialogue(form, StreamingFormat(), history), SYSTEM, [(count, merged)] * turns, spatial)
    file = folder / f"{turns}.safetensors"
    if not file.exists():
        hidden, deep = config.decoder.hidden, len(config.vision.deepstack)
        held = {"tokens": torch.randn(turns, count, hidden).to(dtype), "grid": torch.tensor(merged)}
        save_file(held | ({"deepstack": torch.randn(deep, turns, count, hidden).to(dtype)} if deep else {}), file)
    return made, Reader(file, list(range(turns)))


def random_tunable(size, checkpoint, device, dtype):
    """What `load_tunable` gives of a checkpoint, with random weights of a published size."""
    whole = random_reference(size, device, dtype)
    return TunableDecoder(whole.model.language_model, ("model", "language_model"), whole.lm_head.weight.detach(), checkpoint)
