"""Qwen2.5-VL's tower: attention within windows of 8 x 8 patches, full attention in a few blocks, RMSNorm, gated MLP."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ...kernels.gated_gemm import gated_gemm
from ...kernels.swiglu import swiglu
from .attention import Attention, Segments
from .block import Merger
from .linear import Linear
from .norms import RMSNorm
from .qwen2_vl import frame_plan
from .tower import TemporalPatchEmbed, Tower, VisualTokens

ALIGNED = 64


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

    Windows of one size stand together (inner ones first, then the ragged right, lower and corner ones), so that each is one plain batch.
    """
    unit = torch.arange(rows * columns).view(rows, columns)
    windows = [window.flatten() for band in unit.split(side, 0) for window in band.split(side, 1)]
    windows.sort(key=len, reverse=True)
    return torch.cat(windows), [len(window) for window in windows]


class GatedBlock(nn.Module):
    """RMSNorm, attention, RMSNorm, gated MLP with biases; gate and up are one matrix. The stream is (x, delta), as in `Block`."""

    def __init__(self, config):
        super().__init__()
        self.norm1 = RMSNorm(config.hidden, eps=config.eps)
        self.attention = Attention(config.hidden, config.heads)
        self.norm2 = RMSNorm(config.hidden, eps=config.eps)
        self.gate_up = Linear(config.hidden, 2 * config.intermediate)
        self.down = Linear(config.intermediate, config.hidden)

    @torch.no_grad()
    def widen(self):
        """Add inner channels of zeros up to a multiple of ALIGNED; they change no result, and a second call changes nothing.

        The published 3420 bf16 channels are not a multiple of 16 bytes, which keeps the product behind them off the fast copies.
        """
        inner = self.down.in_features
        extra = -inner % ALIGNED
        if extra:
            halves = self.gate_up.weight.unflatten(0, (2, inner)), self.gate_up.bias.view(2, inner)
            self.gate_up.weight = frozen(pad(halves[0], (0, 0, 0, extra)).flatten(0, 1))
            self.gate_up.bias = frozen(pad(halves[1], (0, extra)).flatten())
            self.down.weight = frozen(pad(self.down.weight, (0, extra)))
            self.gate_up.out_features, self.down.in_features = 2 * (inner + extra), inner + extra

    def quantize_(self):
        """Weights to fp8, as in `Block`."""
        self.widen()
        for linear in (self.attention.qkv, self.gate_up, self.down):
            linear.quantize_()

    def forward(self, x, delta, segments, rotary):
        """x, delta: (P, width), delta perhaps a `Product` -> (x, delta)."""
        normed, x = self.norm1(x, delta, self.attention.qkv.fp8)
        normed, x = self.norm2(x, self.attention(normed, segments, rotary), self.gate_up.fp8)
        if self.gate_up.fp8:
            return x, self.down(swiglu(self.gate_up(normed, bare=True), self.down.fp8), bare=True)
        return x, self.down(gated_gemm(normed, self.gate_up.weight, self.gate_up.bias), bare=True)


def frozen(x):
    return nn.Parameter(x, requires_grad=False)


class Qwen25Tower(Tower):
    def __init__(self, config):
        super().__init__(config)
        self.patch_embed = TemporalPatchEmbed(config.patch, config.hidden)
        self.blocks = nn.ModuleList(GatedBlock(config) for _ in range(config.layers))
        self.merger = Merger(config, norm=RMSNorm)

    def make_plan(self, grids):
        config, device = self.config, self.weight.device
        if device.type == "cuda":
            for block in self.blocks:
                block.widen()
        unit = config.merge**2
        orders, lengths, first = [], [], 0
        for gh, gw in grids:
            order, sizes = window_order(gh // config.merge, gw // config.merge, config.window // config.merge)
            orders.append(order + first)
            lengths += [size * unit for size in sizes]
            first += len(order)
        order = torch.cat(orders).to(device)
        plan = frame_plan(config, grids, device)
        rotary = tuple(by_unit(table, order) for table in plan.rotary)
        return WindowPlan(plan.segments, Segments(lengths, device), rotary, order, order.argsort())

    def forward(self, pixels, grids):
        plan = self.plan(grids)
        x, delta = self.patch_embed(by_unit(pixels, plan.order)), None
        for index, block in enumerate(self.blocks):
            segments = plan.frames if index in self.config.full_attention else plan.windows
            x, delta = block(x, delta, segments, plan.rotary)
        return VisualTokens(self.merger(x, delta).index_select(0, plan.inverse))


def by_unit(x, order):
    """Permute rows in whole merged units."""
    return x.reshape(len(order), -1).index_select(0, order).view_as(x)
