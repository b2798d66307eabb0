"""The plain transformer block of four towers, and the merger that joins neighboring patches into one token."""

import torch
from torch import nn

from .attention import Attention


class Block(nn.Module):
    """LayerNorm, attention, LayerNorm, two-layer MLP; with `layer_scale` each branch has a learned scale per channel."""

    def __init__(self, config, activation, layer_scale=False):
        super().__init__()
        self.activation = activation
        self.norm1 = nn.LayerNorm(config.hidden, eps=config.eps)
        self.attention = Attention(config.hidden, config.heads)
        self.norm2 = nn.LayerNorm(config.hidden, eps=config.eps)
        self.fc1 = nn.Linear(config.hidden, config.intermediate)
        self.fc2 = nn.Linear(config.intermediate, config.hidden)
        self.scale1 = nn.Parameter(torch.empty(config.hidden)) if layer_scale else None
        self.scale2 = nn.Parameter(torch.empty(config.hidden)) if layer_scale else None

    def forward(self, x, segments, rotary=None):
        attended = self.attention(self.norm1(x), segments, rotary)
        x = x + (attended if self.scale1 is None else attended * self.scale1)
        expanded = self.fc2(self.activation(self.fc1(self.norm2(x))))
        return x + (expanded if self.scale2 is None else expanded * self.scale2)


class Merger(nn.Module):
    """Join merge x merge patches and project: (P, width) in block order -> (P / merge^2, out).

    `after_join`: the norm sees the joined vector instead of each patch.
    """

    def __init__(self, config, norm=nn.LayerNorm, after_join=False, eps=1e-6, inner=None):
        super().__init__()
        self.after_join, self.joined = after_join, config.hidden * config.merge**2
        inner = inner or self.joined
        self.norm = norm(self.joined if after_join else config.hidden, eps=eps)
        self.fc1 = nn.Linear(self.joined, inner)
        self.fc2 = nn.Linear(inner, config.out_hidden)

    def forward(self, x):
        x = self.norm(x.reshape(-1, self.joined)) if self.after_join else self.norm(x).view(-1, self.joined)
        return self.fc2(nn.functional.gelu(self.fc1(x)))
