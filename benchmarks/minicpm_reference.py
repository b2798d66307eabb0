"""MiniCPM-V-4.5 in plain PyTorch, named like the published tensors: transformers has its decoder, but neither its tower nor its resampler.

One frame a group, as the engine shows it. Written for comparison, not for speed: one image at a time, softmax in float32.
"""

import torch
from torch import nn
from torch.nn.functional import gelu


def patch_positions(rows, columns, side):
    """Entries of the side x side position table for a grid of patches: int64 (rows * columns,)."""
    edges = torch.arange(1 / side, 1.0, 1 / side)
    row, column = (torch.bucketize(torch.arange(0, 1 - 1e-6, 1 / torch.tensor(count)), edges, right=True) for count in (rows, columns))
    return (row[:, None] * side + column).flatten()


def sine_cosine(width, positions):
    """positions (P,) -> (P, width): sines, then cosines."""
    frequency = 1.0 / 10000 ** (torch.arange(width // 2, dtype=torch.float32) / (width / 2.0))
    angle = positions.float()[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Block(nn.Module):
    def __init__(self, width, heads, inner, eps):
        super().__init__()
        self.heads = heads
        self.self_attn = nn.ModuleDict({f"{name}_proj": nn.Linear(width, width) for name in ("q", "k", "v", "out")})
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)})

    def forward(self, x):
        """x: (P, width), the patches of one image."""
        normed = self.layer_norm1(x)
        q, k, v = (self.self_attn[f"{name}_proj"](normed).unflatten(1, (self.heads, -1)).transpose(0, 1) for name in "qkv")
        weights = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1, dtype=torch.float32).to(x.dtype)
        x = x + self.self_attn["out_proj"]((weights @ v).transpose(0, 1).flatten(1))
        return x + self.mlp["fc2"](gelu(self.mlp["fc1"](self.layer_norm2(x)), approximate="tanh"))


class VisionTower(nn.Module):
    def __init__(self, config):
        super().__init__()
        width, eps, patch = config["hidden_size"], config.get("layer_norm_eps", 1e-6), config["patch_size"]
        self.side = config["image_size"] // patch
        self.embeddings = nn.ModuleDict(
            {"patch_embedding": nn.Conv2d(3, width, patch, patch), "position_embedding": nn.Embedding(self.side**2, width)}
        )
        blocks = [Block(width, config["num_attention_heads"], config["intermediate_size"], eps) for _ in range(config["num_hidden_layers"])]
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(blocks)})
        self.post_layernorm = nn.LayerNorm(width, eps=eps)

    def forward(self, image):
        """image (3, H, W) -> (P, width) and the grid (rows, columns)."""
        x = self.embeddings["patch_embedding"](image[None])[0]
        grid = x.shape[1:]
        x = x.flatten(1).T + self.embeddings["position_embedding"](patch_positions(*grid, self.side).to(x.device))
        for block in self.encoder["layers"]:
            x = block(x)
        return self.post_layernorm(x), grid


class Resampler(nn.Module):
    def __init__(self, width, inner, queries):
        super().__init__()
        self.query, self.proj = nn.Parameter(torch.empty(queries, width)), nn.Parameter(torch.empty(width, width))
        self.kv_proj = nn.Linear(inner, width, bias=False)
        self.attn = nn.MultiheadAttention(width, width // 128)
        self.ln_q, self.ln_kv, self.ln_post = (nn.LayerNorm(width, eps=1e-6) for _ in range(3))

    def forward(self, features, grid):
        """features (P, inner) of one frame -> (queries, width). Keys carry the column in their first half, the row in the second."""
        values = self.ln_kv(self.kv_proj(features))
        row, column = (index.flatten() for index in torch.meshgrid(*map(torch.arange, grid), indexing="ij"))
        half = values.shape[1] // 2
        keys = values + torch.cat([sine_cosine(half, column), sine_cosine(half, row)], dim=1).to(values)
        seen = self.attn(self.ln_q(self.query)[:, None], keys[:, None], values[:, None])[0][:, 0]
        return self.ln_post(seen) @ self.proj


class MiniCPMReference(nn.Module):
    """llm, vpm and resampler of one published config.json, uninitialized."""

    def __init__(self, config, dtype):
        import transformers

        super().__init__()
        parsed = transformers.Qwen3Config(**{key: value for key, value in config.items() if key not in ("vision_config", "auto_map")})
        self.llm = transformers.Qwen3ForCausalLM._from_config(parsed, dtype=dtype, attn_implementation="sdpa")
        self.vpm = VisionTower(config["vision_config"]).to(dtype)
        self.resampler = Resampler(config["hidden_size"], config["vision_config"]["hidden_size"], config["query_num"]).to(dtype)

    def forward(self, ids, visual, images):
        """ids (1, T), visual (1, T) bool: placeholder rows, images: list of (3, H, W) -> next-token logits (V,)."""
        embedded = self.llm.get_input_embeddings()(ids)
        embedded[visual] = torch.cat([self.resampler(*self.vpm(image.to(embedded.dtype))) for image in images])
        return self.llm(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[0, -1]
