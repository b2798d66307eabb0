"""Many videos at once: a few threads decode for all of them, and the one whose consumer is nearest to waiting is served next; those that
nobody reads yet come behind."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial

import av

from .errors import ArgumentError, VideoError
from .video import open_source
from .video_packets import open_container
from .video_source import OPEN

# A thread decodes for a source until it has so many frames or so many seconds are over, hands them over at once, since each time two
# threads want Python's lock, and looks again who needs it most.
BURST_FRAMES, BURST_SECONDS = 8, 0.004
PATIENCE = 0.5  # seconds that a source which is read may get nothing because others have more to come


class DecodePool:
    """Threads that decode for every source opened through the pool.

    workers: threads; by default one for each CPU core of this process. memory: bytes of decoded frames that may wait for their consumers,
    over all sources; one frame a source may wait however large it is. A live source needs a thread of its own and is opened without a pool.
    Raises ArgumentError for less than one thread or byte, and when a source is opened after `close`.
    """

    def __init__(self, workers=None, memory=4 << 30):
        self.workers = len(os.sched_getaffinity(0)) if workers is None else workers
        if self.workers < 1 or memory < 1:
            raise ArgumentError(f"workers={workers}, memory={memory}: at least one thread and one byte are accepted")
        self.memory = memory
        self._jobs, self._coming, self._closed, self._changed = [], 0, False, threading.Condition()
        self._threads = [threading.Thread(target=self._work, name=f"decode {i}", daemon=True) for i in range(self.workers)]
        for thread in self._threads:
            thread.start()
        OPEN.add(self)

    def cores_each(self):
        """CPU cores for each source that is there or on its way: what comes side by side shares evenly and ends side by side. Rather more
        altogether than there are workers than fewer."""
        return -(-self.workers // max(len(self._jobs) + self._coming, 1))

    def open(self, source, fps=None, **options):
        """`open_source` whose frames the pool decodes. Raises as it does."""
        with self._changed:
            self._coming += 1
        try:
            return open_source(source, fps, pool=self, **options)
        finally:
            with self._changed:
                self._coming -= 1

    def rounds(self, requests, streams):
        """Yield lists of (number of the request, what comes next): its next `Frame`, None after its last one, or its VideoError.

        requests: keyword arguments of `open`, one video each. Up to `streams` videos run side by side, the longest first, and the next one
        takes the place of one that ended: it is in the next round. A video that breaks costs its own row only.
        """
        order = sorted(range(len(requests)), key=lambda i: -_seconds(requests[i]["source"]))
        with ThreadPoolExecutor(self.workers) as opener, ExitStack() as cleanup:
            opening, running = {}, {}
            cleanup.callback(lambda: [source.close() for source in running.values()])
            cleanup.callback(lambda: [_close_later(future) for future in opening.values()])
            while order or opening or running:
                while order and len(opening) + len(running) < streams:
                    number = order.pop(0)
                    opening[number] = opener.submit(self.open, **requests[number])
                row = []
                for number, future in list(opening.items()):
                    del opening[number]
                    try:
                        running[number] = future.result()
                    except VideoError as error:
                        row.append((number, error))
                for number, source in list(running.items()):
                    try:
                        frame = next(source, None)
                    except VideoError as error:
                        frame = error
                    if frame is None or isinstance(frame, VideoError):
                        running.pop(number).close()
                    row.append((number, frame))
                yield row

    def close(self):
        """Stop decoding; sources of the pool end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(timeout=2.0)
        with self._changed:
            for job in self._jobs:
                job.ready.end()
                if not job.busy:  # else its thread, when it is back from its decoder, ends it
                    job.end()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def add(self, frames, ready, reader, expected):
        """Decode the `frames` of a reader into `ready` for a FrameSource; `expected` is how many there are, if it is known."""
        job = _Job(frames, ready, reader, expected or 0)
        ready.on_change = partial(self._wake, job)
        with self._changed:
            if self._closed:
                raise ArgumentError("the pool is closed: open a new one")
            self._jobs.append(job)
            self._changed.notify()

    def _wake(self, job, held=None):
        """Somebody took one of `held` frames, or came or left. A thread that wakes for nothing costs the others Python's lock."""
        if held is None or held >= job.room(self._share):
            with self._changed:
                self._changed.notify()

    def _work(self):
        while job := self._take():
            more = job.advance(self._share)
            with self._changed:
                job.busy = False
                if not more:
                    self._jobs.remove(job)
                elif self._closed:
                    job.end()

    def _take(self):
        with self._changed:
            while not self._closed:
                if job := self._neediest():
                    job.busy, job.served = True, time.monotonic()
                    if self._neediest():  # and so on, until all that can be done is being done
                        self._changed.notify()
                    return job
                self._changed.wait()

    @property
    def _share(self):
        return self.memory // max(len(self._jobs), 1)

    def _neediest(self):
        share = self._share
        # A source that was closed is taken too, and first, so that its file is let go of.
        open_to_more = [job for job in self._jobs if not job.busy and (job.ready.ended or job.waiting < job.room(share))]
        # What begins ahead of its reader takes long for its first frames: not all threads at once while others are being read.
        ahead = sum(job.busy and job.unread for job in self._jobs)
        if ahead >= max(self.workers // 2, 1) and any(job.ready.asked for job in self._jobs):
            open_to_more = [job for job in open_to_more if not job.unread]
        # Who feeds a decoder passes Python's lock on many times a frame, and waits long for it where many do: decoders that work ahead are
        # fed by few, in turn.
        if sum(job.busy and job.works_ahead for job in self._jobs) >= max(self.workers // 4, 2):
            open_to_more = [job for job in open_to_more if not job.works_ahead]
        # Where decoding is what everybody waits for, none has a frame, and the longest would be served until the others are as long.
        late = time.monotonic() - PATIENCE
        return min(open_to_more, key=lambda job: (job.unread, job.waiting, min(job.served, late), job.done - job.expected), default=None)


class _Job:
    """One source: what it has left and where its frames go."""

    def __init__(self, frames, ready, reader, expected):
        self.frames, self.ready, self.reader, self.expected = frames, ready, reader, expected
        self.size = reader.width * reader.height * 3
        self.done, self.busy, self.served = 0, False, time.monotonic()

    @property
    def waiting(self):
        return len(self.ready.frames)

    @property
    def unread(self):
        return not (self.ready.asked or self.ready.ended)

    @property
    def works_ahead(self):
        return getattr(self.reader, "works_ahead", False) and not self.ready.ended

    def room(self, share):
        return min(self.ready.size, max(share // self.size, 1))

    def advance(self, share):
        """Decode a few frames; False when there will be no more."""
        frames, begun, over, error = [], time.monotonic(), False, None
        try:
            for _ in range(min(BURST_FRAMES, self.room(share) - self.waiting)):
                if self.ready.ended or time.monotonic() - begun > BURST_SECONDS:
                    break
                frames.append(next(self.frames))
                self.done += 1
        except StopIteration:
            over = True
        except BaseException as caught:  # it belongs to the consumer, whatever it is
            over, error = True, caught
        if frames:
            self.ready.put(*frames)
        if over or self.ready.ended:
            self.end(error)
            return False
        return True

    def end(self, error=None):
        self.frames.close()
        self.ready.end(error)


def _seconds(path):
    """What the header says of the length; 0 for what cannot be opened, which says why when its turn comes."""
    try:
        with open_container(f"file:{path}") as container:
            return container.duration or 0
    except (av.FFmpegError, OSError):
        return 0


def _close_later(future):
    future.add_done_callback(lambda done: done.exception() or done.result().close())
