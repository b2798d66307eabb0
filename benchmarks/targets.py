"""What the step is to reach, and what a bench found of it. Times are those of Qwen2.5-VL-7B on one H200, 8k context, unless said."""

from collections.abc import Callable
from dataclasses import dataclass

SIZE, DEVICE = "qwen2.5-vl-7b", "H200"


@dataclass(frozen=True)
class Target:
    """`value` takes a bench's result and gives the measured number, or None; `more`: whether a larger one is better."""

    what: str
    must: float
    moonshot: float | None
    value: Callable
    more: bool = False

    def verdict(self, value):
        """What became of it, in words."""
        reached = [limit is not None and (value >= limit if self.more else value <= limit) for limit in (self.must, self.moonshot)]
        return "moonshot" if reached[1] else "met" if reached[0] else "missed"


def of_row(read, context=8192, streams=1, tokens=256, quantization=None):
    """A value read from the row of that kind."""

    def value(result):
        wanted = {"context": context, "streams": streams}
        for row in result["rows"] if result["quantization"] == quantization else ():
            if wanted.items() <= row["asked"].items() and row["tokens_per_frame"] == tokens:
                return read(row)
        return None

    return value


def of_peer(name):
    """How many times the engine's p50 the peer of that name takes at 8k, both in bf16."""

    def value(result):
        near = [row for row in result["peers"] if row["peer"].startswith(name) and 8192 <= row["context"] < 9216]
        return near[0].get("ratio") if near and result["quantization"] is None else None

    return value


def drift(result):
    found = result.get("long_stream")
    return found["drift_percent"] if found and found["frames"] == 14400 else None


def scan_ratio(result):
    return next((row["ratio"] for row in result.get("scan", ()) if 0.9 <= row["silent"] < 1), None)


def p50(row):
    return row["total"]["p50"]


def tail(row):
    return row["total"]["p99"] / row["total"]["p50"]


def rate(row):
    return row["frames_per_second"]


def reply(row):
    return row.get("reply_ms_per_token")


TARGETS = (
    Target("step p50, ms", 12.0, 9.0, of_row(p50)),
    Target("its p99 over its p50", 1.15, 1.05, of_row(tail)),
    Target("step p50, fp8, ms", 8.5, 6.0, of_row(p50, quantization="fp8")),
    Target("step p50, 128 tokens a frame, ms", 7.5, 5.5, of_row(p50, tokens=128)),
    Target("step p50, 32k context, ms", 17.0, 13.0, of_row(p50, context=32768)),
    Target("frames/s, 8 streams", 110, 128, of_row(rate, streams=8), more=True),
    Target("frames/s, 8 streams, fp8", 170, 220, of_row(rate, streams=8, quantization="fp8"), more=True),
    Target("reply, ms a token", 4.3, 3.7, of_row(reply)),
    Target("reply, fp8, ms a token", 2.6, 2.1, of_row(reply, quantization="fp8")),
    Target("drift over two hours, %", 5.0, 0.0, drift),
    Target("times faster than transformers, incremental", 12.0, 16.0, of_peer("transformers, incremental"), more=True),
    Target("times faster than plain PyTorch in a graph", 1.6, 2.1, of_peer("plain PyTorch"), more=True),
    Target("scan over stepping, 9 of 10 turns silent", 1.2, None, scan_ratio, more=True),
)


def reached(result):
    """[(target, measured value)] of those that a result says something of; none for another model, machine or dtype."""
    if result["size"] != SIZE or DEVICE not in result["machine"]["device"] or result["dtype"] != "bfloat16":
        return []
    found = [(target, target.value(result)) for target in TARGETS]
    return [(target, value) for target, value in found if value is not None]
