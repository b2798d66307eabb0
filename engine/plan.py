"""What one forward pass of the decoder needs to know besides the tokens: where they go, what they see, how they are rotated."""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import torch

from ..kernels.append_attention import live_slots


@dataclass
class Batch:
    """The host's side of a pass over T new tokens of B streams: plain ints, before anything is on the device.

    positions (3, T) int64, slots (T,) int64 flat over the pool; tables: B lists of pages; lengths: logical slots after the append; holes:
    dead logical ranges; counts: new tokens of each stream; visual_rows, rows: which of the T rows are visual, and which are read out.
    """

    ids: list
    positions: torch.Tensor
    slots: torch.Tensor
    tables: list
    lengths: list
    holes: list
    counts: list
    visual_rows: list
    rows: list
    features: list = field(default_factory=list)

    @property
    def query_start(self):
        """Where each stream's new tokens begin, and the end: B + 1 ints."""
        return [0, *accumulate(self.counts)]

    def block_table(self, width):
        """The tables as rows of `width` pages."""
        return [pages + [0] * (width - len(pages)) for pages in self.tables]


def send(tensor, device):
    """A host tensor's copy on the device; the host does not wait for what is queued there."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Plan:
    """Tensors for T new tokens of B streams.

    slots (T,) int64: where each token's key and value go, -1 for nowhere; cos, sin (T, D/2) float32; block_table (B, P), lengths (B,),
    holes (B, 2) and query_start (B + 1,), all int32; longest: the most new tokens a stream has. The plain attention alone asks for host
    values: `batch` has them; without it they are read back.
    """

    def __init__(self, rope, positions, slots, block_table, lengths, holes, query_start, longest, batch=None):
        self.cos, self.sin = rope.angles(positions)
        self.slots, self.block_table, self.lengths, self.holes, self.query_start = slots, block_table, lengths, holes, query_start
        self.tokens, self.longest, self.batch = len(slots), longest, batch

    @classmethod
    def of(cls, batch, rope, device):
        """The plan of a batch, copied to the device."""
        contents = (batch.block_table(max(map(len, batch.tables))), batch.lengths, batch.holes, batch.query_start)
        small = (send(torch.tensor(values, dtype=torch.int32), device) for values in contents)
        return cls(rope, send(batch.positions, device), send(batch.slots, device), *small, max(batch.counts), batch)

    @cached_property
    def host_query_start(self):
        """`query_start` as a list on the host."""
        return self.query_start.tolist() if self.batch is None else self.batch.query_start

    @cached_property
    def live_slots(self):
        """Flat live slots of every stream, for the plain attention: one gather index serves all layers of the pass."""
        if self.batch is None:
            return live_slots(self.block_table, self.lengths, self.holes)
        return live_slots(self.block_table, torch.tensor(self.batch.lengths), torch.tensor(self.batch.holes))
