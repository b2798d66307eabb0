"""The bench of a model: rows of the step's table, peers on the same work. Saved after every part; a part that fails costs itself alone."""

import json
import sys
import traceback
from dataclasses import dataclass
from functools import partial

import torch

from evostreaming import __version__
from evostreaming.engine.errors import EvoStreamingError

from .arrivals import streams_per_device
from .bench_report import markdown, plot
from .floors import measure_ceilings
from .long_stream import long_stream
from .measure import make_workload, measure_engine, measure_peer
from .peers import PEERS
from .random_checkpoint import size_of
from .scanning import measure_scan
from .subject import Unavailable, release

FURTHER_STEPS, FURTHER_SECONDS = 50, 4.0  # at most, of rows that are not the base row


@dataclass(frozen=True)
class Rows:
    """What to measure: the first value of each list is the base; every further value gives a row in which only that one differs."""

    contexts: tuple
    streams: tuple = (1,)
    tokens: tuple = (None,)

    @property
    def all(self):
        """(context, streams, tokens a frame) of every row, the base row first."""
        base = self.contexts[0], self.streams[0], self.tokens[0]
        rows = [base, *((context, *base[1:]) for context in self.contexts)]
        rows += [(base[0], streams, base[2]) for streams in self.streams]
        rows += [(*base[:2], tokens) for tokens in self.tokens]
        return list(dict.fromkeys(rows))

    @property
    def for_peers(self):
        """Contexts at which peers run: up to the base's, the base first. They take one stream of the base's frames."""
        return list(dict.fromkeys(context for context in self.contexts if context <= self.contexts[0]))


class Bench:
    """Runs the parts and holds what is known so far in `result`, plain JSON values."""

    def __init__(self, subject, rows, steps, out):
        self.subject, self.rows, self.steps, self.out = subject, rows, steps, out
        self.workloads = {}  # what the peers of the latest context do
        self.without = set()  # peers that were found unavailable, and why was said
        self.ceilings = measure_ceilings(subject.device, subject.dtype)
        release(subject.device)
        self.result = {
            "machine": machine(subject.device),
            "ceilings": {"bandwidth": self.ceilings.bandwidth, "flops": self.ceilings.flops},
            "model": subject.name,
            "size": size_of(subject.config),
            "dtype": str(subject.dtype).removeprefix("torch."),
            "quantization": subject.quantization,
            "rows": [],
            "peers": [],
            "failed": [],
            "interrupted": False,
        }

    def parts(self, peers=False, scan=False, frames=None):
        """(title, function(report)) of everything to be measured, in order."""
        parts = []
        for index, (context, streams, tokens) in enumerate(self.rows.all):
            limits = (min(self.steps, FURTHER_STEPS), FURTHER_SECONDS) if index else (self.steps, float("inf"))
            parts.append((title(context, streams, tokens), self.engine_part(context, streams, tokens, *limits)))
        if scan:
            parts.append(("scan against stepping", self.scan_part))
        for context in self.rows.for_peers if peers else ():
            parts += [(f"{kind.name}, {title(context, 1, self.rows.tokens[0])}", self.peer_part(kind, context)) for kind in PEERS]
        return parts + ([(f"a stream of {frames} frames", self.long_part(frames))] if frames else [])

    def run(self, parts, progress):
        """Measure the parts; `progress(number, title, fraction)` hears how far each one is, and now and then a line to be `said`. Ctrl-C
        ends it with what there is. Returns `result`."""
        for number, (name, part) in enumerate(parts):
            report = partial(progress, number, name)
            report(0.0)
            try:
                part(report)
            except (Unavailable, EvoStreamingError) as reason:
                self.result["failed"].append({"part": name, "reason": str(reason)})
            except KeyboardInterrupt:
                self.result["failed"].append({"part": name, "reason": "interrupted, and nothing behind it was begun"})
                self.result["interrupted"] = True
            except Exception as error:  # one part's fault, whatever it is, must not cost the others' numbers
                traceback.print_exc(file=sys.stderr)
                self.result["failed"].append({"part": name, "reason": f"{type(error).__name__}: {error}".splitlines()[0]})
            release(self.subject.device)
            self.save()
            report(1.0)
            if self.result["interrupted"]:
                break
        return self.result

    def engine_part(self, context, streams, tokens, steps, seconds):
        def part(report):
            row = measure_engine(self.subject, self.ceilings, context, streams, tokens, steps, report, seconds)
            self.result["rows"].append({"asked": {"context": context, "streams": streams, "tokens_per_frame": tokens}, **row})

        return part

    def scan_part(self, report):
        self.result["scan"] = measure_scan(self.subject, self.rows.contexts[0], self.rows.tokens[0], report)

    def peer_part(self, kind, context):
        def part(report):
            if kind.name in self.without:
                return
            if self.rows.streams[0] != 1:
                raise Unavailable("peers take one stream; give 1 first in --streams")
            if context not in self.workloads:
                self.workloads = {context: make_workload(self.subject, context, self.rows.tokens[0])}
            workload = self.workloads[context]
            report(0.3)
            try:
                measured = measure_peer(kind, self.subject, workload, min(self.steps, FURTHER_STEPS))
            except Unavailable:
                self.without.add(kind.name)
                raise
            ours = next((row["total"]["p50"] for row in self.result["rows"] if row["asked"]["context"] == context), None)
            ratio = {} if ours is None else {"ratio": measured["total"]["p50"] / ours}
            self.result["peers"].append({"context": workload.context, "new_tokens": len(workload.turn.ids), **measured, **ratio})

        return part

    def long_part(self, frames):
        def part(report):
            for found in long_stream(self.subject, frames, self.rows.contexts[0], self.rows.tokens[0], report):
                self.result["long_stream"] = found
                self.save()

        return part

    def save(self):
        """bench.json, bench.md and bench.png of what is known."""
        samples = {row["streams"]: row["samples"] for row in self.result["rows"] if self.on_streams_axis(row)}
        if len(samples) > 1:
            self.result["streams_per_device"] = streams_per_device(samples)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "bench.json").write_text(json.dumps(self.result, indent=1) + "\n")
        (self.out / "bench.md").write_text(markdown(self.result))
        if self.result["rows"]:
            plot(self.result, self.out / "bench.png")

    def on_streams_axis(self, row):
        return (row["asked"]["context"], row["asked"]["tokens_per_frame"]) == (self.rows.contexts[0], self.rows.tokens[0])


def title(context, streams, tokens):
    """A row in words."""
    parts = [f"context {context}", "1 stream" if streams == 1 else f"{streams} streams"]
    return ", ".join(parts + ([] if tokens is None else [f"{tokens} tokens a frame"]))


def machine(device):
    """Where this runs."""
    import platform

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {"device": name, "torch": torch.__version__, "evostreaming": __version__, "command": " ".join(["evostreaming", *sys.argv[1:]])}
