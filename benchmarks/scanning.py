"""`scan` against stepping: the same frames behind the same context of one stream, all of them silent, or all but every tenth.

A reply is one token long in both, so that what is compared is the watching.
"""

import time

from evostreaming.engine.gate import Gate

from .measure import FRAMES, Place, wait
from .subject import Unavailable

COUNT, RUNS = 40, 2  # frames; timed runs of each way, of which the faster one counts
EVERY = 10  # the turn that speaks


def measure_scan(subject, context, tokens, report=lambda done: None, count=COUNT):
    """Two dicts in a list: share of silent turns, milliseconds a frame of both ways, how much faster `scan` is. Raises Unavailable."""
    place = Place(subject, context, 2, tokens, room=count + 4)
    (stream,) = place.fill(1, lambda done: report(done / 3))
    engine, shown = place.engine, [place.frames[index % FRAMES] for index in range(count)]
    engine.max_reply, engine.gate = 1, Gate(threshold=0.0, refractory=EVERY - 1)
    ways = {"step": lambda fork, force: [engine.step(frame, fork, force=force) for frame in shown]}
    ways["scan"] = lambda fork, force: engine.scan(shown, fork, force=force)
    rows = []
    for force, silent in ((False, count), (None, count - count // EVERY)):
        spent = {way: [run(engine.device, stream, ways[way], force, silent) for _ in range(RUNS + 1)][1:] for way in ways}
        step, scan = (min(spent[way]) / count for way in ways)
        rows.append({"silent": silent / count, "frames": count, "step_ms": step, "scan_ms": scan, "ratio": step / scan})
        report(1 / 3 + len(rows) / 3)
    return rows


def run(device, stream, way, force, silent):
    """Milliseconds of one way on a fork of the stream. Raises Unavailable when it was not silent on as many turns as it should."""
    with stream.fork() as fork:
        fork.refractory = EVERY - 1  # as right after a reply
        wait(device)
        begin = time.perf_counter()
        steps = way(fork, force)
        spent = (time.perf_counter() - begin) * 1e3
    found = sum(not step.speak for step in steps)
    if found != silent:
        raise Unavailable(f"{found} turns of {len(steps)} were silent instead of {silent}")
    return spent
