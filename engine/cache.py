"""The paged KV cache: one pool of 128-token pages an engine, and the table of pages of each stream.

A stream's logical slots are [sinks][hole][window]: eviction drops whole pages from the middle of its table, and what stays dead inside the
remaining pages is one hole, so window keys never move. Forks share pages; whoever writes into a shared page copies it first.
"""

import re

import numpy as np
import torch

from .._pages import PageAllocator
from ..kernels.paged_attention import PAGE
from .errors import CapacityError, OutOfPages


def pages_for(tokens):
    """Pages that hold `tokens` slots."""
    return -(-tokens // PAGE)


def most_pages(max_tokens):
    """Pages a stream of at most `max_tokens` holds: two more than they fill, for the page where the sinks end, the one where the window
    begins and the one where it ends can each hold a single token."""
    return pages_for(max_tokens) + 2


def bytes_per_token(config, dtype):
    """Bytes of keys and values one token takes over all layers."""
    return 2 * config.layers * config.kv_heads * config.head_dim * dtype.itemsize


def free_bytes(device):
    """Bytes that can be had on a device, or None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    # Linux grants more than there is, and ends the process that uses it.
    try:
        with open("/proc/meminfo") as file:
            found = re.search(r"MemAvailable:\s+(\d+) kB", file.read())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


class PagedCache:
    """Keys and values of all streams: `keys`, `values` (layers, pages, 128, K, D)."""

    def __init__(self, config, pages, device, dtype):
        """Raises CapacityError when the device has no room for that many pages."""
        shape = (config.layers, pages, PAGE, config.kv_heads, config.head_dim)
        needed = pages * PAGE * bytes_per_token(config, dtype)
        free = free_bytes(device)
        if free is not None and needed > free:
            raise CapacityError(needed, free, pages)
        try:
            self.keys, self.values = (torch.zeros(shape, device=device, dtype=dtype) for _ in range(2))
        except RuntimeError:  # a limit of the process, or what others took meanwhile
            raise CapacityError(needed, None, pages) from None
        self.allocator = PageAllocator(pages)

    @property
    def free(self):
        """Pages nobody holds."""
        return self.allocator.free

    @property
    def total(self):
        """Pages of the pool."""
        return self.allocator.total

    def allocate(self, count, what):
        """Take `count` pages, all or none; raises OutOfPages naming `what` asked."""
        if count > self.allocator.free:
            raise OutOfPages(self.allocator.free, count, what)
        return self.allocator.allocate(count)

    def copy_page(self, source, target):
        """Copy one page in every layer."""
        self.keys[:, target] = self.keys[:, source]
        self.values[:, target] = self.values[:, source]


class PageTable:
    """The pages of one stream in logical order, `length` logical slots of which [hole) are dead."""

    def __init__(self, cache, what):
        self.cache, self.what = cache, what
        self.pages, self.length, self.hole = [], 0, (0, 0)

    @property
    def live(self):
        """Tokens the stream can see."""
        return self.length - (self.hole[1] - self.hole[0])

    def extend(self, count):
        """Make the next `count` slots writable and return them, flat over the pool: (count,) int64 on the host."""
        grow = max(0, pages_for(self.length + count) - len(self.pages))
        fresh = self.cache.allocate(grow, self.what) if grow else []
        try:
            self.own(self.length // PAGE, len(self.pages))
        except OutOfPages:
            self.cache.allocator.release(fresh)
            raise
        self.pages += fresh
        begin, self.length = self.length, self.length + count
        return self.flat(begin, self.length)

    def own(self, begin, end):
        """Replace shared pages of the table's range [begin, end) by private copies."""
        for index in range(begin, end):
            page = self.pages[index]
            if self.cache.allocator.refcount(page) > 1:
                (copy,) = self.cache.allocate(1, self.what)
                self.cache.copy_page(page, copy)
                self.pages[index] = copy
                self.cache.allocator.release([page])

    def flat(self, begin, end):
        """Flat pool slots of the logical range [begin, end): int64 on the host."""
        first = begin // PAGE
        pages = np.array(self.pages[first : pages_for(end)], dtype=np.int64)
        logical = np.arange(begin, end) - first * PAGE
        return torch.from_numpy(pages[logical // PAGE] * PAGE + logical % PAGE)

    def truncate(self, count):
        """Forget the last `count` tokens and give back the pages they alone used."""
        self.length -= count
        keep = pages_for(self.length)
        if self.pages[keep:]:
            self.cache.allocator.release(self.pages[keep:])
            del self.pages[keep:]

    def cut(self, sinks, window):
        """Keep logical slots [0, sinks) and [window, length); returns by how many slots the window's numbers went down."""
        first, last = pages_for(sinks), window // PAGE
        dropped = self.pages[first:last]
        if dropped:
            self.cache.allocator.release(dropped)
            del self.pages[first:last]
        shift = len(dropped) * PAGE
        self.length -= shift
        self.hole = (sinks, window - shift)
        return shift

    def fork(self):
        """A second table over the same pages."""
        other = PageTable(self.cache, self.what)
        self.cache.allocator.share(self.pages)
        other.pages, other.length, other.hole = list(self.pages), self.length, self.hole
        return other

    def close(self):
        """Give all pages back."""
        self.cache.allocator.release(self.pages)
        self.pages, self.length, self.hole = [], 0, (0, 0)
