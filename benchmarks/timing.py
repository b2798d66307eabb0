"""Time of device work: replays of one CUDA graph that holds many calls, so that launch gaps of the host stay out."""

import statistics
from time import perf_counter

import torch

BANDWIDTH = 4.3e12  # bytes/s, the device-to-device copy rate of one H200
FLOPS = {"bf16": 790e12, "fp8": 1500e12}  # dense products that one H200 reaches
CALLS, SECONDS = 48, 0.02  # what one graph holds: so many calls, or so much work where a call takes long


def replay_of(calls):
    """A CUDA graph in which `calls` take turns, warm: (its replay, the number of calls in it)."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    begin = perf_counter()
    calls[0]()
    torch.cuda.synchronize()
    wanted = min(CALLS, SECONDS / (perf_counter() - begin))
    rounds = max(1, int(wanted / len(calls)))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for call in calls:
                call()
    graph.replay()
    return graph.replay, rounds * len(calls)


def microseconds(calls, replays=15):
    """Median time of one call over `replays` replays of a graph of many; `calls` take turns.

    One call repeated finds its data in the L2 cache; calls over data sets that exceed it together find theirs in memory.
    """
    replay, count = replay_of(calls)
    return statistics.median(timed(replay, count) for _ in range(replays))


def timed(replay, count):
    """µs of one of the `count` calls of a replay."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e3 / count


def floor_of(size, flops, kind):
    """The least µs that moving `size` bytes and doing `flops` FLOPs of that kind can take."""
    return 1e6 * max(size / BANDWIDTH, flops / FLOPS[kind])


def describe(time, size=0, flops=0, kind="bf16", ours=None):
    """µs; GB/s or TFLOP/s, whichever bounds the work, and percent of that floor; how many times as long as `ours` it took."""
    text = f"{time:9.2f} µs"
    if floor := floor_of(size, flops, kind):
        bytes_bound = size / BANDWIDTH >= flops / FLOPS[kind]
        text += f" {size / time / 1e3:7.0f} GB/s   " if bytes_bound else f" {flops / time / 1e6:7.0f} TFLOP/s"
        text += f" {100 * floor / time:5.1f} % of floor"
    return text if ours is None else f"{text}, x{time / ours:.2f}"
