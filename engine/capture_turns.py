"""Captures of CUDA graphs and what would break them take turns.

A capture is void once anybody in the process waits for a whole device or its context, in whatever thread. DALI and the GPU's video decoders
do so as they like: where they are built, begin a file, or need memory.
"""

import threading
from contextlib import contextmanager, suppress

import torch


class Turns:
    """Many threads inside of `device_waits`, or one inside of `capture`, which goes first. Neither is to be nested."""

    def __init__(self):
        self._changed, self._waits, self._capturing = threading.Condition(), 0, False

    @contextmanager
    def device_waits(self):
        """Around calls that may wait for a whole device."""
        with self._changed:
            self._changed.wait_for(lambda: not self._capturing)
            self._waits += 1
        try:
            yield
        finally:
            with self._changed:
                self._waits -= 1
                self._changed.notify_all()

    @contextmanager
    def capture(self):
        """Around a capture: begins once all are out of `device_waits`, and lets nobody in before its end."""
        with self._changed:
            self._changed.wait_for(lambda: not self._capturing)
            self._capturing = True
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._waits)
            yield
        finally:
            with self._changed:
                self._capturing = False
                self._changed.notify_all()


TURNS = Turns()  # of this process: a capture anywhere is void for a wait anywhere
_VOID = []  # graphs whose capture has failed: torch before 2.12 asks them about pinned memory ever after


class VoidCapture(Exception):
    """Somebody outside of `TURNS` waited for the device during a capture. Nothing else has changed by it."""


@contextmanager
def capturing(graph, pool):
    """`torch.cuda.graph` in its turn; meanwhile other threads may bring frames. Raises VoidCapture; `pool` is not to be captured into again
    then."""
    stream, device = torch.cuda.current_stream(), torch.cuda.current_device()
    with TURNS.capture():
        try:
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                yield
        except RuntimeError as error:
            # What is captured may itself do what is forbidden there. It is told first then, by another name.
            if "StreamCaptureInvalidated" not in str(error) or "StreamCaptureUnsupported" in str(error.__context__):
                raise
            _mend(stream, device, pool)
            _VOID.append(graph)
            raise VoidCapture from error


def _mend(stream, device, pool):
    """What torch leaves behind a failed capture: its stream is current, its pool in use, and before 2.12 allocator and random numbers are
    as if it went on."""
    torch.cuda.set_stream(stream)
    with suppress(RuntimeError):
        torch._C._cuda_endAllocateToPool(device, pool)
    torch._C._cuda_releasePool(device, pool)
    numbers = torch.cuda.default_generators[device]
    numbers.graphsafe_set_state(numbers.clone_state())
