"""Qwen2.5-VL's tower: attention within windows of 8 x 8 patches, full attention in a few blocks, RMSNorm, gated MLP."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from .attention import Attention, Segments
from .block import Merger
from .qwen2_vl import frame_plan
from .tower import TemporalPatchEmbed, Tower, VisualTokens


@dataclass
class WindowPlan:
    """Tokens run window by window through the blocks: `order` and `inverse` permute merged units, angles are already permuted."""

    frames: Segments
    windows: Segments
    rotary: tuple[Tensor, Tensor]
    order: Tensor
    inverse: Tensor


def window_order(rows, columns, side):
    """Merged units of one frame (rows x columns) listed window by window, and the length of each window in units.

    Windows of one size stand together (inner ones first, then the ragged right, lower and corner ones), so that each size is one batch.
    """
    unit = torch.arange(rows * columns).view(rows, columns)
    windows = [window.flatten() for band in unit.split(side, 0) for window in band.split(side, 1)]
    windows.sort(key=len, reverse=True)
    return torch.cat(windows), [len(window) for window in windows]


class GatedBlock(nn.Module):
    """RMSNorm, attention, RMSNorm, gated MLP with biases; gate and up are one matrix."""

    def __init__(self, config):
        super().__init__()
        self.norm1 = nn.RMSNorm(config.hidden, eps=config.eps)
        self.attention = Attention(config.hidden, config.heads)
        self.norm2 = nn.RMSNorm(config.hidden, eps=config.eps)
        self.gate_up = nn.Linear(config.hidden, 2 * config.intermediate)
        self.down = nn.Linear(config.intermediate, config.hidden)

    def forward(self, x, segments, rotary):
        x = x + self.attention(self.norm1(x), segments, rotary)
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(silu(gate) * up)


class Qwen25Tower(Tower):
    def __init__(self, config):
        super().__init__(config)
        self.patch_embed = TemporalPatchEmbed(config.patch, config.hidden)
        self.blocks = nn.ModuleList(GatedBlock(config) for _ in range(config.layers))
        self.merger = Merger(config, norm=nn.RMSNorm)

    def make_plan(self, grids):
        config, device = self.config, self.weight.device
        unit = config.merge**2
        orders, lengths, first = [], [], 0
        for gh, gw in grids:
            order, sizes = window_order(gh // config.merge, gw // config.merge, config.window // config.merge)
            orders.append(order + first)
            lengths += [size * unit for size in sizes]
            first += len(order)
        order = torch.cat(orders).to(device)
        plan = frame_plan(config, grids, device)
        rotary = tuple(self.by_unit(table, order) for table in plan.rotary)
        return WindowPlan(plan.segments, Segments(lengths, device), rotary, order, order.argsort())

    def by_unit(self, x, order):
        """Permute rows in whole merged units."""
        return x.view(len(order), -1)[order].view_as(x)

    def forward(self, pixels, grids):
        plan = self.plan(grids)
        x = self.by_unit(self.patch_embed(pixels), plan.order)
        for index, block in enumerate(self.blocks):
            x = block(x, plan.frames if index in self.config.full_attention else plan.windows, plan.rotary)
        return VisualTokens(self.merger(x)[plan.inverse])
