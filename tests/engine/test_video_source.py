"""The queue, the thread and the errors between a reader and its consumer."""

import gc
import time
from fractions import Fraction

import pytest
import torch

from evostreaming.engine.errors import VideoError
from evostreaming.engine.video import FrameSource
from evostreaming.engine.video_source import Picture


def test_decoding_never_runs_further_ahead_than_the_queue(counted):
    reader = counted()
    with FrameSource(reader, queue=3) as source:
        for taken in range(1, 30):
            next(source)
            time.sleep(0.002)
            assert reader.pulled <= taken + 3 + 1  # three wait, one is in the decoder's hand
        deadline = time.monotonic() + 5
        while reader.pulled < 29 + 3 + 1 and time.monotonic() < deadline:
            time.sleep(0.002)
        assert reader.pulled == 29 + 3 + 1, "and it does run ahead"


def test_close_ends_the_thread_at_once_though_the_queue_is_full(counted):
    reader = counted()
    source = FrameSource(reader, queue=1)
    next(source)
    time.sleep(0.02)
    began = time.monotonic()
    source.close()
    assert time.monotonic() - began < 0.5
    assert reader.stopped.is_set() and reader.closed
    assert not source._thread.is_alive()
    assert next(source, None) is None
    source.close()


def test_a_source_that_is_forgotten_lets_go_of_its_thread(counted):
    reader = counted()
    next(FrameSource(reader, queue=1))
    gc.collect()
    assert reader.stopped.wait(2.0)


@pytest.mark.parametrize("error", [VideoError("clip", "broken", 0.4), RuntimeError("a fault of the reader")])
def test_an_error_comes_after_all_frames_before_it(error, counted):
    source = FrameSource(counted(length=5, error=error), queue=2)
    seen = []
    with pytest.raises(type(error)) as caught:
        for frame in source:
            seen.append(frame.index)
            time.sleep(0.005)
    assert seen == [0, 1, 2, 3, 4] and caught.value is error


def test_a_late_consumer_of_a_live_source_gets_the_newest_frame_and_a_count_of_the_rest(counted):
    reader = counted(length=40, live=True, pause=0.001)
    source = FrameSource(reader)
    next(source)
    assert reader.stopped.wait(5.0)
    rest = [frame.index for frame in source]
    assert rest == [39]
    assert source.dropped == 40 - 2, "all but the two that were fetched"


def test_a_gap_in_a_live_source_is_not_made_up_for(counted):
    class Gap(counted):
        def pictures(self, start, end, rate=None):
            for seconds in (0, 1, 60, 61):
                time.sleep(0.02)
                yield Picture(Fraction(seconds), seconds, lambda: torch.zeros(4, 4, 3, dtype=torch.uint8))

    times = [frame.time for frame in FrameSource(Gap(live=True), 1)]
    assert times[-1] == 61.0 and set(times) <= {0.0, 1.0, 59.0, 60.0, 61.0}  # 59 shows what 1 s left, unless 60 has replaced it
