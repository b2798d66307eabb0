"""The packets of one reading of a file: counted, ranked, and what of them failed."""

import heapq
from itertools import accumulate, pairwise

import av

from .errors import VideoError


def open_container(address, **options):
    """`av.open` for reading, whatever encoding titles and the like are in."""
    return av.open(address, metadata_errors="replace", **options)


def read_alone(container, video):
    """Leave every stream of a container but `video` unread."""
    for other in container.streams:
        if other is not video:
            other.discard = av.stream.Discard.all


class Tally:
    """What one reading of the file met: packets, failures, and how pictures rank in the order of presentation."""

    def __init__(self):
        self.packets = self.fed = self.decoded = 0
        self.reached, self.longest_step = None, 0
        self.failed, self.broken = [], None
        self._ahead, self._rank, self._latest = [], 0, None

    def watch(self, container, video):
        """Yield the packets of the stream and, last, None for the decoder to give what it holds."""
        packets = container.demux(video)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except (av.FFmpegError, OSError) as error:
                self.broken = error
                break
            if packet.size == 0:
                break
            if not packet.is_discard:
                self._count(packet)
            yield packet
        yield None

    def _count(self, packet):
        self.packets += 1
        pts = packet.dts if packet.pts is None else packet.pts
        if pts is None:
            return
        heapq.heappush(self._ahead, pts)
        if self._latest is not None and pts > self._latest:
            self.longest_step = max(self.longest_step, pts - self._latest)
        self._latest = pts if self._latest is None else max(pts, self._latest)
        self.reached = max(self._latest if self.reached is None else self.reached, pts + (packet.duration or 0))

    def add(self, times, ends):
        """Count packets by their times of presentation and of their end: what `watch` finds one by one, without ranks."""
        latest = list(accumulate(times, max))
        self.packets, self.reached = len(times), max(latest[-1], max(ends))
        self.longest_step = max((after - before for before, after in pairwise(latest)), default=0)

    def rank(self, pts):
        """How many different times before `pts` the packets so far have: packets that fail or are skipped keep their place."""
        while self._ahead and self._ahead[0] < pts:
            passed = heapq.heappop(self._ahead)
            self._rank += not self._ahead or self._ahead[0] != passed
        return self._rank

    def report(self, reader, last, missing=None):
        """Raise the one VideoError that says everything that went wrong, if anything did."""
        reasons = []
        if self.failed:
            times = [float((p.pts - reader.origin) * reader.base) for p in self.failed if p is not None and p.pts is not None]
            where = f", from {min(times):.2f} s to {max(times):.2f} s" if times else ""
            reasons.append(f"{len(self.failed)} of {self.packets} packets cannot be decoded{where}")
        if self.broken:
            reasons.append(f"the container cannot be read on, {reason_of(self.broken)}")
        if missing:
            reasons.append(missing)
        if reasons:
            raise VideoError(reader.source, "; ".join(reasons), None if last is None else float(last))


def from_key_frame(packets, pts):
    """Drop what is before the last key frame not after `pts`: no picture from there on needs it."""
    held, seeking = [], True
    for packet in packets:
        if seeking and packet is not None and not (packet.is_keyframe and held and packet.pts is not None):
            held.append(packet)
        elif seeking and packet is not None and held[0].pts is not None and held[0].pts <= packet.pts <= pts:
            held = [packet]
        else:
            yield from held
            held, seeking = [], False
            yield packet


def reason_of(error):
    """The words of an FFmpeg error without its number and its file name."""
    return getattr(error, "strerror", None) or str(error)
