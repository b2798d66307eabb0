"""Attention within packed segments (frames or windows): the towers' self-attention, and the cross-attention of a resampler."""

from itertools import accumulate, groupby

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ...kernels.vision_attention import vision_attention
from .linear import Linear


class Segments:
    """A packed sequence cut into segments of given lengths; a token sees its own segment only.

    `starts` (S + 1,) int32 on the device and `longest`, a host int, are what `vision_attention` asks for.
    """

    def __init__(self, lengths, device):
        bounds = [0, *accumulate(lengths)]
        self.total, self.longest = bounds[-1], max(lengths)
        self.starts = torch.tensor(bounds, dtype=torch.int32, device=device)
        runs = [list(run) for _, run in groupby(zip(bounds, lengths), lambda segment: segment[1])]
        self.runs = [(slice(run[0][0], sum(run[-1])), run[0][1]) for run in runs]

    def ask(self, queries, k, v):
        """The same queries (Q, H, D) to every segment of k, v: (T, H, D) -> (segments, Q, H, D). Neighbors of one length are one batch."""
        answers = []
        for rows, length in self.runs:
            keys, values = (x[rows].unflatten(0, (-1, length)).transpose(1, 2) for x in (k, v))
            q = queries.transpose(0, 1).expand(len(keys), -1, -1, -1)
            answers.append(scaled_dot_product_attention(q, keys, values).transpose(1, 2))
        return torch.cat(answers)


class Attention(nn.Module):
    """Multi-head self-attention over packed segments, optionally with rotary positions."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x, segments, rotary=()):
        """x: (T, width), `Quantized` if qkv is in fp8; rotary: (cos, sin), each (T, D/2) float32, or nothing."""
        qkv = self.qkv(x).unflatten(1, (3, self.heads, -1))
        return self.proj(vision_attention(qkv, segments.starts, segments.longest, *rotary).flatten(1))
