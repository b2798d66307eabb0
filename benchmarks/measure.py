"""Times of the engine and of its peers at a fixed context: every step is taken at the same point of the stream and taken back after it."""

import statistics
import time

import torch

from .floors import Work, floors
from .subject import Unavailable, release
from .workload import SYSTEM, frame_shape, make_frames, record, taken_back, visual_tokens

STAGES = ("preprocess", "vision", "prefill", "gate")
WARM_UP, SLOW_STEPS, FRAMES = 5, 3, 4
FEWEST_STEPS = 10  # of a row that is given only so many seconds
# Largest relative L2 difference of decision logits from the engine's at which a peer still did the same work.
AGREE = {torch.float32: 1e-3, torch.bfloat16: 0.05, torch.float16: 0.05}
AGREE_QUANTIZED = 0.3


def quantiles(spent):
    """p50, p95 and p99 of a list of times."""
    ranks = sorted(spent)
    high = {f"p{percent}": ranks[-(-percent * len(ranks) // 100) - 1] for percent in (95, 99)}
    return {"p50": statistics.median(ranks), **high}


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Place:
    """Streams of an engine filled to a context, and the frames shown to them."""

    def __init__(self, subject, context, streams=1, tokens=None, room=4):
        """`room`: turns that every stream has space for behind the context. Raises Unavailable, CapacityError."""
        pixels = subject.config.pixels
        self.shape = frame_shape(pixels, tokens)
        self.size, self.tokens = visual_tokens(pixels, self.shape, tokens)
        if tokens is not None and abs(self.tokens - tokens) > tokens / 4:
            raise Unavailable(f"a frame of {self.shape[0]} x {self.shape[1]} costs {self.tokens} tokens in this model, not {tokens}")
        self.frames = make_frames(FRAMES, self.shape, subject.device)
        self.engine = subject.engine(context + room * (self.tokens + 64), streams, tokens)
        self.context = context

    def fill(self, count, report=lambda done: None):
        """`count` open streams that hold at least the context, each in pages of its own; `report` hears the fraction done."""
        stream, index = self.engine.open(system=SYSTEM), 0
        while index == 0 or stream.context.table.live < self.context:
            self.step([stream], index)
            index += 1
            report(min(1.0, stream.context.table.live / self.context))
        others = []
        for _ in range(count - 1):
            others.append(stream.fork())
            table = others[-1].context.table
            table.own(0, len(table.pages))  # shared ones would come from the L2 cache
        return [stream, *others]

    def step(self, streams, index, force=False):
        """One frame for every stream: their Steps."""
        frames = [self.frames[(index + place) % FRAMES] for place in range(len(streams))]
        return self.engine.step(frames, streams=streams, force=force)

    def again(self, streams, index, force=False):
        """A step that leaves no trace: (milliseconds on the host's clock, Steps)."""
        pending = [stream.pending for stream in streams]
        wait(self.engine.device)
        begin = time.perf_counter()
        steps = self.step(streams, index, force)
        spent = (time.perf_counter() - begin) * 1e3
        for stream, before in zip(streams, pending):
            stream.context.rollback()
            stream.pending = before
        return spent, steps


def measure_engine(subject, ceilings, context, streams, tokens, steps, report=lambda done: None, seconds=float("inf")):
    """One row of the table: `steps` steps, or as many as take `seconds`, but not under 10. Raises Unavailable, CapacityError.

    Times are milliseconds: `total` on the host's clock from the frame on the device to the decision on the host, stages from the engine's
    own events.
    """
    place = Place(subject, context, streams, tokens)
    opened = place.fill(streams, lambda done: report(done / 2))
    before = opened[0].context.table.live
    for index in range(WARM_UP):
        place.again(opened, index)
    spent, latencies = [], []
    for index in range(steps):
        if index >= FEWEST_STEPS and sum(spent) > seconds * 1e3:
            break
        milliseconds, taken = place.again(opened, index)
        spent.append(milliseconds)
        latencies.append(taken[0].latency)
        report(0.5 + 0.5 * (index + 1) / steps)
    place.step(opened, 0)
    new = opened[0].context.table.live - before + len(taken_back(place.engine))
    work = Work(streams, before, new, place.size, subject.dtype.itemsize, subject.weight_bytes)
    limits = floors(subject.config, work, ceilings)
    floor = sum(limits[stage]["floor_ms"] for stage in STAGES)
    total = quantiles(spent)
    row = {
        "context": before, "streams": streams, "tokens_per_frame": place.tokens, "new_tokens": new, "frame": list(place.size),
        "steps": len(spent), "total": total, "samples": spent,
        "stages": {stage: quantiles([getattr(latency, stage) for latency in latencies]) for stage in STAGES},
        "frames_per_second": streams / total["p50"] * 1e3, "floor": limits, "floor_ms": floor,
        "percent_of_floor": 100 * floor / total["p50"],
        **measure_reply(place, opened),
    }  # fmt: skip
    for stream in opened:
        stream.close()
    return row


def measure_reply(place, streams):
    """Milliseconds a token of a reply that all streams give at once, best of three; nothing where the model ends its turn at once."""
    found = []
    for index in range(3):
        _, steps = place.again(streams, index, force=None)
        tokens = max(step.tokens for step in steps)
        if tokens > 1:
            found.append(steps[0].latency.reply / tokens)
    return {"reply_ms_per_token": min(found)} if found else {}


def make_workload(subject, context, tokens):
    """What the peers of a row shall do, with the engine's own logits to check theirs. Raises Unavailable."""
    place = Place(subject, context, 1, tokens)
    return record(place.engine, context, place.frames)


def measure_peer(kind, subject, workload, steps):
    """One peer on a workload: its times and how far its decision logits are from the engine's. Raises Unavailable, also where they are too
    far for it to have done the same work."""
    release(subject.device)
    peer = kind(subject, workload)
    spent, count = [], min(steps, SLOW_STEPS) if kind.slow else steps
    for index in range(-(2 if kind.slow else WARM_UP), count):
        wait(subject.device)
        begin = time.perf_counter()
        logits = peer.step()
        choice = logits.argmax().item()
        if index >= 0:
            spent.append((time.perf_counter() - begin) * 1e3)
        peer.rewind()
    difference = check(logits, choice, workload.logits, kind, subject)
    return {"peer": kind.name, "steps": count, "total": quantiles(spent), "logits_difference": difference}


def check(logits, choice, expected, kind, subject):
    """Relative L2 difference of the logits, or None from a peer that tells only its first choice. Raises Unavailable when they disagree."""
    if getattr(kind, "top_only", False):
        if choice != expected.argmax().item():
            raise Unavailable("its most likely next token is not the engine's, so it did not do the same work")
        return None
    expected = expected.to(logits.device)
    difference = ((logits - expected).norm() / expected.norm()).item()
    limit = AGREE_QUANTIZED if subject.quantization else AGREE[subject.dtype]
    if not difference <= limit:
        raise Unavailable(f"not the same work: decision logits differ from the engine's by {difference:.3f} (relative L2), over {limit}")
    return difference
