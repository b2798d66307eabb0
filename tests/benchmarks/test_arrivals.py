"""Delays of decisions from measured times of batches, against cases that can be worked out by hand."""

import random

import pytest

from evostreaming.benchmarks.arrivals import batch_time, decision_delays, streams_per_device


def test_a_lone_stream_waits_exactly_one_step():
    delays = decision_delays({1: [20.0]}, 1, rate=2, seconds=10)
    assert len(delays) == 20
    assert delays == pytest.approx([20.0] * 20)


def test_a_frame_waits_at_most_for_the_batch_before_its_own():
    delays = decision_delays({1: [10.0], 8: [30.0]}, 8, rate=2)
    assert min(delays) == pytest.approx(10.0) and max(delays) <= 60.0 + 1e-6


def test_an_engine_that_is_too_slow_falls_behind_without_end():
    # Four streams at 4 frames/s ask for a batch each 250 ms, and a batch takes 400 ms.
    delays = decision_delays({1: [400.0], 4: [400.0]}, 4, rate=4, seconds=60)
    assert delays[-1] > 10_000 and len(delays) == 4 * 240


def test_a_batch_between_two_measured_sizes_takes_what_lies_between():
    samples = {1: [12.0], 8: [80.0], 32: [320.0]}
    found = [batch_time(samples, sorted(samples), size, random.Random(0)) for size in (1, 8, 9, 20, 32, 40)]
    assert found == pytest.approx([12.0, 80.0, 90.0, 200.0, 320.0, 320.0])


def test_streams_within_the_deadline_are_the_most_that_keep_it_at_each_rate():
    # 8.75 ms a stream in large batches, so 114 frames a second at most.
    samples = {1: [12.0], 8: [72.0], 32: [280.0], 64: [560.0]}
    found = streams_per_device(samples)
    assert found[1]["within"] == 64 and 50 <= found[2]["within"] <= 57 and 25 <= found[4]["within"] <= 28
    assert found[2]["p99"][64] > 200 and found[4]["p99"][32] > 200
    assert streams_per_device({1: [300.0], 8: [900.0]})[1]["within"] == 0
