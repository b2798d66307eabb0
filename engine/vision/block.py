"""The plain transformer block of four towers, and the merger that joins neighboring patches into one token."""

import torch
from torch import nn

from ...kernels.gelu import gelu
from ...kernels.product import dense
from .attention import Attention
from .linear import Linear
from .norms import LayerNorm


class Block(nn.Module):
    """LayerNorm, attention, LayerNorm, two-layer MLP; with `layer_scale` each branch has a learned scale per channel.

    The stream between blocks is (x, delta): delta, or None, is still to be added, by the norm that comes next.
    """

    def __init__(self, config, activation, layer_scale=False):
        """activation: the kind of GELU."""
        super().__init__()
        self.activation = activation
        self.norm1 = LayerNorm(config.hidden, eps=config.eps)
        self.attention = Attention(config.hidden, config.heads)
        self.norm2 = LayerNorm(config.hidden, eps=config.eps)
        self.fc1 = Linear(config.hidden, config.intermediate)
        self.fc2 = Linear(config.intermediate, config.hidden)
        self.scale1 = nn.Parameter(torch.empty(config.hidden)) if layer_scale else None
        self.scale2 = nn.Parameter(torch.empty(config.hidden)) if layer_scale else None

    def quantize_(self):
        """Weights to fp8, but for `proj`: quantizing its input takes what its product saves."""
        for linear in (self.attention.qkv, self.fc1, self.fc2):
            linear.quantize_()

    def forward(self, x, delta, segments, rotary=()):
        """x, delta: (P, width), delta perhaps a `Product` -> (x, delta)."""
        normed, x = self.norm1(x, delta, self.attention.qkv.fp8)
        normed, x = self.norm2(*scaled(x, self.attention(normed, segments, rotary), self.scale1), self.fc1.fp8)
        hidden = gelu(self.fc1(normed, bare=True), self.activation, self.fc2.fp8)
        return scaled(x, self.fc2(hidden, bare=self.scale2 is None), self.scale2)


def scaled(x, delta, scale):
    """(x, delta), with the delta scaled and added if it has a scale."""
    return (x, delta) if scale is None else (torch.addcmul(x, delta, scale), None)


class Merger(nn.Module):
    """Join merge x merge patches and project: (P, width) in block order -> (P / merge^2, out).

    `after_join`: the norm sees the joined vector instead of each patch.
    """

    def __init__(self, config, norm=LayerNorm, after_join=False, eps=1e-6, inner=None):
        super().__init__()
        self.after_join, self.joined = after_join, config.hidden * config.merge**2
        inner = inner or self.joined
        self.norm = norm(self.joined if after_join else config.hidden, eps=eps)
        self.fc1 = nn.Linear(self.joined, inner)
        self.fc2 = nn.Linear(inner, config.out_hidden)

    def forward(self, x, delta=None):
        """Tokens of x + delta."""
        if self.after_join:
            x, delta = (part if part is None else part.view(-1, self.joined) for part in (x, dense(delta)))
        normed, _ = self.norm(x, delta)
        return self.fc2(gelu(self.fc1(normed.view(-1, self.joined))))
