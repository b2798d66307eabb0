"""Attention within packed segments (frames or windows), batched by length: no loop over frames or windows."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from .rotary import rotate


class Segments:
    """A packed sequence cut into segments of given lengths; a token sees its own segment only.

    Segments of one length form one batch. Adjacent ones are a view of the packed tensor, others are gathered by an index made here.
    """

    def __init__(self, lengths, device):
        lengths = torch.tensor(lengths)
        starts = lengths.cumsum(0) - lengths
        self.count, self.total = len(lengths), int(lengths.sum())
        self.batches = []
        for length in lengths.unique().tolist():
            which = (lengths == length).nonzero().flatten()
            rows = (starts[which, None] + torch.arange(length)).flatten()
            self.batches.append((as_slice(which, device), as_slice(rows, device), len(which), length))

    def attend(self, q, k, v):
        """q, k, v: (T, H, D) -> (T, H, D)."""
        if len(self.batches) == 1:
            return self.batch(q, k, v, *self.batches[0][2:])
        out = torch.empty_like(v)
        for _, rows, count, length in self.batches:
            out[rows] = self.batch(q[rows], k[rows], v[rows], count, length)
        return out

    def batch(self, q, k, v, count, length):
        q, k, v = (x.reshape(count, length, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1)

    def ask(self, queries, k, v):
        """The same queries (Q, H, D) to every segment of k, v: (T, H, D) -> (segments, Q, H, D)."""
        out = v.new_empty(self.count, *queries.shape)
        for which, rows, count, length in self.batches:
            q = queries.transpose(0, 1).expand(count, -1, -1, -1)
            keys, values = (x[rows].reshape(count, length, *x.shape[1:]).transpose(1, 2) for x in (k, v))
            out[which] = scaled_dot_product_attention(q, keys, values).transpose(1, 2)
        return out


def as_slice(index, device):
    """A run of consecutive indices as a slice, anything else as an index tensor on the device."""
    first, last = int(index[0]), int(index[-1])
    return slice(first, last + 1) if last - first + 1 == len(index) else index.to(device)


class Attention(nn.Module):
    """Multi-head self-attention over packed segments, optionally with rotary positions."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x, segments, rotary=None):
        """x: (T, width); rotary: (cos, sin), each (T, D/2) float32."""
        qkv = self.qkv(x).view(len(x), 3, self.heads, -1)
        q, k, v = qkv.unbind(1)
        if rotary is not None:
            q, k = rotate(qkv[:, :2], *rotary).unbind(1)
        return self.proj(segments.attend(q, k, v).flatten(1))
