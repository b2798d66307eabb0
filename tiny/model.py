"""A small Qwen2.5-VL written for training: every frame is one attention window, so the tower runs as a plain batch.

Parameters carry the published tensor names. Two things differ from the published layout and are undone in `checkpoint.py`: the patch
embedding holds the sum of its two temporal slices (a single frame fills both), and the head is the embedding (tied).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .batches import GRID, Batch


@dataclass(frozen=True)
class Sizes:
    """Widths and depths; the default fills a 12 MB checkpoint."""

    vocabulary: int
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 608
    vision_hidden: int = 128
    vision_depth: int = 4
    vision_heads: int = 4
    vision_intermediate: int = 352
    patch: int = 14
    merge: int = 2
    sections: tuple = (8, 12, 12)  # of the head's 32 frequencies: time, row, column
    theta: float = 1e6
    eps: float = 1e-6


class RMSNorm(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(x.dtype)


class MLP(nn.Module):
    def __init__(self, width, inner, bias):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, inner, bias), nn.Linear(width, inner, bias)
        self.down_proj = nn.Linear(inner, width, bias)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def rotate(x, cos, sin):
    """Half-split rotation in float32. x: `(B, H, T, D)`; cos, sin: broadcastable `(..., T, D)`."""
    left, right = x.float().chunk(2, -1)
    return (x.float() * cos + torch.cat((-right, left), -1) * sin).to(x.dtype)


class VisionAttention(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.heads = sizes.vision_heads
        self.qkv, self.proj = nn.Linear(sizes.vision_hidden, 3 * sizes.vision_hidden), nn.Linear(sizes.vision_hidden, sizes.vision_hidden)

    def forward(self, x, cos, sin):
        frames, patches, width = x.shape
        q, k, v = self.qkv(x).view(frames, patches, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        return self.proj(out.transpose(1, 2).reshape(frames, patches, width))


class VisionBlock(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(sizes.vision_hidden), RMSNorm(sizes.vision_hidden)
        self.attn, self.mlp = VisionAttention(sizes), MLP(sizes.vision_hidden, sizes.vision_intermediate, True)

    def forward(self, x, cos, sin):
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.proj = nn.Linear(3 * sizes.patch**2, sizes.vision_hidden, bias=False)

    def forward(self, x):
        return self.proj(x)


class Merger(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        wide = sizes.vision_hidden * sizes.merge**2
        self.ln_q = RMSNorm(sizes.vision_hidden)
        self.mlp = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, sizes.hidden))

    def forward(self, x):
        return self.mlp(self.ln_q(x).reshape(x.shape[0], GRID * GRID, -1))


class Tower(nn.Module):
    """Normalized pixels float `(F, 3, 112, 112)` to visual tokens `(F, 16, hidden)`, row by row."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self.patch_embed = PatchEmbed(sizes)
        self.blocks = nn.ModuleList(VisionBlock(sizes) for _ in range(sizes.vision_depth))
        self.merger = Merger(sizes)
        cos, sin = _vision_angles(sizes)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, pixels):
        p, m = self.sizes.patch, self.sizes.merge
        # Patches that merge into one token stand together: (row, column) of the token, then (row, column) within it.
        x = pixels.view(-1, 3, GRID, m, p, GRID, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(len(pixels), -1, 3 * p * p)
        x = self.patch_embed(x)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.merger(x)


def _vision_angles(sizes):
    half = sizes.vision_hidden // sizes.vision_heads // 2
    frequency = 1.0 / 10000.0 ** (torch.arange(0, half, 2).float() / half)
    index = torch.arange(GRID * sizes.merge)
    rows, columns = torch.meshgrid(index, index, indexing="ij")

    def order(grid):
        return grid.reshape(GRID, sizes.merge, GRID, sizes.merge).permute(0, 2, 1, 3).reshape(-1)

    angles = torch.cat([order(rows)[:, None] * frequency, order(columns)[:, None] * frequency], -1)
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


@torch.compiler.disable
def attend(q, k, v, mask):
    """Left out of compiled blocks: with sizes unknown the compiler would copy the mask to align it."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class Attention(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.dim = sizes.hidden // sizes.heads
        self.groups = sizes.heads // sizes.kv_heads
        self.q_proj = nn.Linear(sizes.hidden, sizes.heads * self.dim)
        self.k_proj, self.v_proj = (nn.Linear(sizes.hidden, sizes.kv_heads * self.dim) for _ in range(2))
        self.o_proj = nn.Linear(sizes.heads * self.dim, sizes.hidden, bias=False)

    def forward(self, x, cos, sin, mask):
        batch, length, _ = x.shape
        q, k, v = (p(x).view(batch, length, -1, self.dim).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        k, v = (t.repeat_interleave(self.groups, 1) for t in (rotate(k, cos, sin), v))
        out = attend(rotate(q, cos, sin), k, v, mask)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class Layer(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(sizes.hidden), RMSNorm(sizes.hidden)
        self.self_attn, self.mlp = Attention(sizes), MLP(sizes.hidden, sizes.intermediate, False)

    def forward(self, x, cos, sin, mask):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.hidden)
        self.layers = nn.ModuleList(Layer(sizes) for _ in range(sizes.layers))
        self.norm = RMSNorm(sizes.hidden)

    def forward(self, x, positions, branch):
        cos, sin = self._angles(positions)
        mask = visibility(branch, x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return self.norm(x)

    def _angles(self, positions):
        dim = self.sizes.hidden // self.sizes.heads
        frequency = 1.0 / self.sizes.theta ** (torch.arange(0, dim, 2, device=positions.device).float() / dim)
        angles = positions[..., None].float() * frequency
        chunks = [part[axis] for axis, part in enumerate(angles.split(self.sizes.sections, -1))]
        angles = torch.cat([*chunks, *chunks], -1)[:, None]
        return angles.cos(), angles.sin()


def visibility(branch, dtype):
    """What is added to attention scores, `(B, 1, L, L)`: 0 for earlier tokens of branch 0 and of the own branch, else minus infinity."""
    length = branch.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    seen = earlier & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
    return torch.zeros((), dtype=dtype, device=branch.device).where(seen, float("-inf"))[:, None]


class TinyVL(nn.Module):
    """The whole model. `forward(batch, pixels)` gives logits float32 `(M, vocabulary)` at the batch's `where` only."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes
        self.visual, self.model = Tower(sizes), Decoder(sizes)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02 if "embed" in name else p.shape[1] ** -0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        for layer in self.model.layers:  # residual branches start small: depth costs nothing at first
            layer.self_attn.o_proj.weight.data *= 0.2
            layer.mlp.down_proj.weight.data *= 0.2

    def forward(self, batch: Batch, pixels: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(batch, pixels)
        return F.linear(hidden.reshape(-1, hidden.shape[-1])[batch.where], self.model.embed_tokens.weight).float()

    def hidden(self, batch: Batch, pixels: torch.Tensor) -> torch.Tensor:
        """Last hidden states `(B, L, hidden)`; pixels float32 `(B*F, 3, 112, 112)`, normalized."""
        tokens = self.visual(pixels)
        x = self.model.embed_tokens(batch.ids).to(tokens.dtype)
        place = batch.visual[..., None].expand(-1, -1, x.shape[-1])
        x = x.scatter(1, place, tokens.reshape(x.shape[0], -1, x.shape[-1]))
        return self.model(x, batch.positions, batch.branch)
