"""One bench, two ways to run it: `python -m benchmarks.bench_<op>` prints a table, `pytest benchmarks/bench_<op>.py` tests each shape.

A bench module has SHAPES, a dict from names to arguments, and `cases(*arguments)`, a generator of `Case`s: for each piece of work our op
first, its peers behind it. Two lines join it:

    test_speed = speed_of(SHAPES, cases)
    if __name__ == "__main__": main(__doc__, SHAPES, cases)
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import torch

from .timing import describe, microseconds


class Case(NamedTuple):
    """Work to time: what it is, whose code does it, calls that take turns, bytes and FLOPs of its floor, and a check against the truth.

    The first case of a `what` is ours, the others are peers; `kind`, "bf16" or "fp8", says which products bound it. `many` gives ways to
    do the same instead of `calls`, by name; the fastest is taken. `time`, in µs, is given where the cases took it themselves.
    """

    what: str
    name: str
    calls: list = ()
    size: float = 0
    check: Callable | None = None
    flops: float = 0
    kind: str = "bf16"
    many: dict | None = None
    time: float | None = None


def main(description, shapes, cases):
    """The table on standard output; `--refcheck` compares with the truth first, `--alone` leaves the peers out."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--refcheck", action="store_true", help="compare with the truth before timing")
    parser.add_argument("--alone", action="store_true", help="time this op only, not its peers")
    parser.add_argument("--only", default="", metavar="TEXT", help="shapes whose name holds this")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "this bench needs a CUDA device, and PyTorch sees none\n")
    for name, arguments in shapes.items():
        if options.only in name:
            run(cases(*arguments), options.refcheck, options.alone)


def run(cases, refcheck=False, alone=False):
    """Time the cases and print a line for each: {"what, name": its figures}."""
    found, ours = {}, {}
    for case in cases:
        peer = case.what in ours
        if alone and peer:
            continue
        if refcheck and case.check is not None:
            case.check()
        try:
            name, time = fastest(case)
            figures = describe(time, case.size, case.flops, case.kind, ours.get(case.what))
        except RuntimeError as error:
            if not peer:
                raise
            name, figures = case.name, f"cannot: {str(error).splitlines()[0]}"  # not every peer takes every shape
        else:
            ours.setdefault(case.what, time)
        found[f"{case.what}, {name}"] = figures
        print(f"{case.what:44} {name:34} {figures}", flush=True)
    return found


def fastest(case):
    """(name, µs) of the fastest way to do the case."""
    if case.time is not None:
        return case.name, case.time
    if case.many is None:
        return case.name, microseconds(case.calls)
    times = {way: microseconds(calls, 5) for way, calls in case.many.items()}
    best = min(times, key=times.get)
    return f"{case.name}, {best}", times[best]


def speed_of(shapes, cases):
    """A test for each shape: pytest-benchmark keeps the time of our op, which comes first, and the figures of everything beside it."""

    def test_speed(shape, keep_time):
        keep_time(cases(*shapes[shape]))

    return test_speed
