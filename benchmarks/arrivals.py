"""How late decisions are when many streams send frames at a fixed rate: a simulation of arrivals over measured times of batches.

Streams start at random moments. Whenever the engine is free it takes the oldest waiting frame of every stream that has one, in one batch;
a batch takes as long as a measured step of that many streams, and between two numbers that were measured what lies on the line
between them.
"""

import random
from bisect import bisect_left
from itertools import count

DEADLINE = 200.0  # ms from the arrival of a frame to its decision
RATES = (1, 2, 4)


def decision_delays(samples, streams, rate, seconds=60.0, seed=0):
    """Milliseconds from arrival to decision of every frame. samples: {streams in a batch: measured ms of steps}; rate: frames a second."""
    chance = random.Random(seed)
    measured = sorted(samples)
    arrivals = sorted(
        (moment, stream)
        for stream in range(streams)
        for start in [chance.random() / rate]
        for moment in (start + turn / rate for turn in range(int(seconds * rate)))
    )
    waiting, delays, now, index = {}, [], 0.0, 0
    for _ in count():
        while index < len(arrivals) and arrivals[index][0] <= now:
            waiting.setdefault(arrivals[index][1], []).append(arrivals[index][0])
            index += 1
        if not waiting:
            if index == len(arrivals):
                return delays
            now = arrivals[index][0]
            continue
        now += batch_time(samples, measured, len(waiting), chance) / 1e3
        for stream in list(waiting):
            delays.append((now - waiting[stream].pop(0)) * 1e3)
            if not waiting[stream]:
                del waiting[stream]


def batch_time(samples, measured, size, chance):
    """Milliseconds of one batch; `measured`: the keys of `samples`, sorted."""
    place = bisect_left(measured, size)
    above = measured[min(place, len(measured) - 1)]
    below = measured[place - 1] if place and above > size else above
    low, high = (chance.choice(samples[n]) for n in (below, above))
    return low if above == below else low + (high - low) * (size - below) / (above - below)


def streams_per_device(samples, rates=RATES, deadline=DEADLINE):
    """For each rate: {"p99": {streams: ms}, "within": the most streams, up to the largest measured number, whose p99 keeps the deadline, or
    0}."""
    result = {}
    for rate in rates:
        late = {streams: _p99(samples, streams, rate) for streams in sorted(samples)}
        kept, lost = max((n for n, delay in late.items() if delay <= deadline), default=0), max(late) + 1
        while lost - kept > 1:
            between = (kept + lost) // 2
            kept, lost = (between, lost) if _p99(samples, between, rate) <= deadline else (kept, between)
        result[rate] = {"p99": late, "within": kept}
    return result


def _p99(samples, streams, rate):
    delays = sorted(decision_delays(samples, streams, rate))
    return delays[-(-99 * len(delays) // 100) - 1]
