"""Every error the engine raises on purpose, one type per kind, all under `EvoStreamingError`.

A message says what was given, what is accepted, and what to do about it.
"""

import re


def without_password(address):
    """The address of a network source as it may be shown: `rtsp://user:secret@host/1` -> `rtsp://host/1`."""
    return re.sub(r"//[^/@]*@", "//", str(address))


class EvoStreamingError(Exception):
    """Root of all errors raised on purpose. `exit_code` is what a program ends with that could not go on."""

    exit_code = 1


class CheckpointError(EvoStreamingError):
    """A checkpoint directory, its configuration or its tensors cannot be used."""

    exit_code = 4


class FrameError(EvoStreamingError):
    """A frame has a wrong dtype, rank or size, or turns into NaN or Inf features."""


class NumericsError(EvoStreamingError):
    """NaN or Inf came out of the decoder: no decision can be taken."""


class OutOfPages(EvoStreamingError):
    """The page pool of the engine is exhausted. `free` and `needed` count pages."""

    def __init__(self, free, needed, what="this call"):
        self.free, self.needed = free, needed
        super().__init__(
            f"out of cache pages: {what} needs {needed}, {free} are free; "
            "close or let go of other streams, or load the engine with larger max_streams or max_tokens"
        )


class StreamClosed(EvoStreamingError):
    """A closed stream was used."""


class TextTooLong(EvoStreamingError):
    """A system prompt, query, prompt or forced reply does not fit in `max_tokens`."""

    exit_code = 2


class EngineBusy(EvoStreamingError):
    """A second thread called into an engine that is in the middle of a call."""


class VideoError(EvoStreamingError):
    """A video source cannot be read on. `source`, `reason` and `time` (seconds reached, or None) say where and why."""

    exit_code = 3

    def __init__(self, source, reason, time=None):
        self.source, self.reason, self.time = without_password(source), reason, time
        reached = "no frame was read" if time is None else f"read up to {time:.2f} s"
        super().__init__(f"{self.source}: {reason} ({reached})")


class CapacityError(EvoStreamingError):
    """The cache asked for does not fit on the device. `needed` and `free` are bytes; `free` is None where the system does not say."""

    def __init__(self, needed, free, pages):
        self.needed, self.free = needed, free
        room = "more than there is" if free is None else f"{free / 2**30:.2f} GiB are free"
        super().__init__(
            f"a cache of {pages} pages needs {needed / 2**30:.2f} GiB, {room} on the device; "
            "load the engine with smaller max_streams or max_tokens"
        )


class ArgumentError(EvoStreamingError, ValueError):
    """A call's arguments contradict each other or the checkpoint."""

    exit_code = 2
