"""What one forward pass of the decoder needs to know besides the tokens: where they go, what they see, how they are rotated."""

from functools import cached_property
from itertools import accumulate

import torch

from ..kernels.append_attention import live_slots


class Plan:
    """Tensors for T new tokens of B streams.

    slots (T,) int64: where each token's key and value go; cos, sin (T, D/2) float32; block_table (B, P) int32, lengths (B,) int32 logical
    slots after the append, holes (B, 2) int32 dead logical range, query_start (B + 1,) int32.
    """

    def __init__(self, device, rope, positions, slots, tables, lengths, holes, counts):
        """positions (3, T) int64 and slots (T,) int64 on the host; tables: B lists of pages; lengths, counts: B ints; holes: B pairs."""
        self.tokens, self.device = sum(counts), device
        self.host_query_start = [0, *accumulate(counts)]
        self.cos, self.sin = rope.angles(positions.to(device))
        self.slots = slots.to(device)
        widest = max(map(len, tables))
        self.block_table = torch.tensor([row + [0] * (widest - len(row)) for row in tables], dtype=torch.int32).to(device)
        self.host_lengths, self.host_holes = lengths, holes
        self.lengths = torch.tensor(lengths, dtype=torch.int32).to(device)
        self.holes = torch.tensor(holes, dtype=torch.int32).to(device)
        self.query_start = torch.tensor(self.host_query_start, dtype=torch.int32).to(device)

    @cached_property
    def live_slots(self):
        """Flat live slots of every stream, for the plain attention: one gather index serves all layers of the pass."""
        return live_slots(self.block_table, torch.tensor(self.host_lengths), torch.tensor(self.host_holes))
