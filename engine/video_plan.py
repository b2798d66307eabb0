"""Which packets of a file have to be decoded to show a picture at every tick, planned from its index before anything is decoded.

A picture needs the references between it and the last key frame in front of it. So a plan passes over pictures that nothing refers to,
over what follows the last wanted picture in front of a key frame, and over whole stretches between key frames. No picture changes by it.
"""

from bisect import bisect_left, bisect_right
from math import ceil
from typing import NamedTuple

# A jump to where the decoder does not restart by itself empties it, which costs about as much as this many pictures when it works on
# several at once.
SHORTEST_JUMP = 8
WORTH = 0.9  # a plan that decodes more than this share of the packets is not worth its index


class PacketIndex(NamedTuple):
    """The packets of one stream in the order of decoding, times in its time base."""

    pts: list[int]
    key: list[bool]
    leaf: list[bool]  # nothing refers to it
    restart: list[bool]  # a key frame at which the decoder forgets all before it
    hidden: list[bool]  # cut away by an edit list: decoded, never shown
    steady: bool = True  # one size and format throughout, one picture a packet

    def sound(self):
        """Whether time stamps and key frames are such that a plan can be trusted: every time once, key frames in order of time, and
        nothing in front of a key frame that is shown after it."""
        times = [pts for pts, hidden in zip(self.pts, self.hidden) if not hidden]
        if not times or not self.key[0] or len(set(times)) < len(times):
            return False
        keys = [i for i, key in enumerate(self.key) if key]
        ends = [*keys[1:], len(self.pts)]
        return all(max(self.pts[i:end]) < self.pts[end] for i, end in zip(keys, ends) if end < len(self.pts))


class Plan(NamedTuple):
    """What to do with each packet of `index`."""

    index: PacketIndex
    feed: bytearray  # 1: goes to the decoder
    jumps: set[int]  # packets in front of which the decoder is emptied
    shown: dict[int, int]  # {pts: place among the pictures} in the order of presentation
    last: int  # pts of the last picture that was asked for
    count: int  # packets that decoding without a plan would take

    @property
    def cheaper(self):
        return sum(self.feed) < WORTH * self.count

    @property
    def stop(self):
        """One past the last packet that goes to the decoder."""
        return self.feed.rfind(1) + 1


def make_plan(index, origin, base, rate, start, end):
    """Plan the ticks k / rate of [start, end), or every picture there without a rate.

    start, end: seconds as fractions. origin: pts of the first picture. base: seconds a count. Returns None when the index does not know it.
    """
    times = sorted(pts for pts, hidden in zip(index.pts, index.hidden) if not hidden)
    stop = len(times) if end is None else bisect_left(times, origin + ceil(end / base))
    if not stop or origin not in times:
        return None
    # One picture more says how long the one before it stands.
    last = times[min(stop, len(times) - 1)]
    shown = {}
    if rate is None:
        first = max(bisect_right(times, origin + start / base) - 1, 0)
        shown = {pts: first + i for i, pts in enumerate(times[first:]) if origin <= pts <= last}
    else:
        tick = ceil(start * rate)
        while (due := origin + tick / rate / base) <= last and (end is None or tick / rate < end):
            place = bisect_right(times, due) - 1
            shown[times[place]] = place
            following = times[place + 1] if place + 1 < len(times) else last + 1
            tick = max(tick + 1, ceil((following - origin) * base * rate))
    feed, jumps = _select(index, shown)
    first = max((i for i, key in enumerate(index.key) if key and index.pts[i] <= origin + start / base), default=0)
    return Plan(index, feed, jumps, shown, last, sum(pts <= last for pts in index.pts[first:]))


def _select(index, shown):
    count = len(index.pts)
    wanted = [index.pts[i] in shown and not index.hidden[i] for i in range(count)]
    begins = [i for i, key in enumerate(index.key) if key]
    groups = list(zip(begins, [*begins[1:], count]))
    leads = [any(wanted[i] and index.pts[i] < index.pts[begin] for i in range(begin, end)) for begin, end in groups]
    feed, jumps, whole_before = bytearray(count), set(), False
    for g, (begin, end) in enumerate(groups):
        last = max((i for i in range(begin, end) if wanted[i]), default=None)
        following = g + 1 < len(groups)
        # Pictures shown before a key frame and stored behind it need the stretch in front of it.
        whole = following and leads[g + 1]
        if not whole and last is None:
            whole_before = False
            continue
        rest = 0 if last is None else sum(not leaf for leaf in index.leaf[last + 1 : end])
        cost = SHORTEST_JUMP if following and not index.restart[end] else 1
        whole = whole or (following and rest < cost and any(wanted[end : groups[g + 1][1]]))
        if not whole_before and begin:
            jumps.add(begin)
        for i in range(begin, end if whole else last + 1):
            skipped = index.leaf[i] or (index.pts[i] < index.pts[begin] and not leads[g])
            feed[i] = wanted[i] or not skipped
        whole_before = whole
    return feed, jumps
