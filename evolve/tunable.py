"""The decoder of a checkpoint as transformers and PEFT know it, without its tower: what stage 5 trains.

Visual tokens come ready from the engine, so the tower is never built. Modules keep the names they have in the full transformers model (or
in the published files, for MiniCPM and the chat edition of InternVL), so that the adapter loads in PEFT and in `Engine` alike.
"""

from pathlib import Path

import torch
import transformers
from torch import nn
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..engine.config import ModelConfig, read_json
from ..engine.tensor_files import TensorFiles
from ..engine.weight_names import find_layout

# Linear layers of the decoder; the embedding and the head stay as they are.
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ATTENTION = "by_mask"


def attend(module, query, key, value, mask, **more):
    """Attention as transformers calls it: flex attention where the mask is one of blocks, else SDPA, which takes None for causal."""
    if isinstance(mask, BlockMask):  # transformers would repeat keys and values where the number of heads is no power of two
        out = flex_attention(query, key, value, block_mask=mask, enable_gqa=True, scale=more.get("scaling"))
        return out.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(module, query, key, value, mask, **more)


transformers.AttentionInterface.register(ATTENTION, attend)


class TunableDecoder(nn.Module):
    """`text`: the decoder as transformers has it, reachable under its published path; `head`: the output matrix (V, h), frozen."""

    def __init__(self, text, path, head, checkpoint):
        super().__init__()
        text.set_attn_implementation(ATTENTION)
        self.path, self.name_or_path = path, str(checkpoint)  # the latter is what PEFT writes into the adapter
        self.register_buffer("head", head, persistent=False)
        place = self
        for name in path[:-1]:
            place.add_module(name, nn.Module())
            place = getattr(place, name)
        place.add_module(path[-1], text)

    @property
    def text(self):
        return self.get_submodule(".".join(self.path))

    def forward(self, ids, positions, visual, features, deepstack, mask, rows):
        """Logits (R, V) float32 at `rows` of one packed row.

        ids (L,); positions (3, L); visual (N,) where features (N, h) stand; deepstack (S, N, h) or None; mask (L, L) bool or a
        BlockMask of (1, 1, L, L), None for causal.
        """
        text = self.text
        hidden = text.embed_tokens(ids[None])
        if len(visual):
            hidden = hidden.index_copy(1, visual, features[None].to(hidden.dtype))
        if torch.is_grad_enabled():
            hidden.requires_grad_()  # as every other layer's input does, or the first would be compiled apart; so would a view
        more = {}
        if deepstack is not None:
            seen = torch.zeros(1, len(ids), dtype=torch.bool, device=ids.device)
            seen[0, visual] = True
            more = {"visual_pos_masks": seen, "deepstack_visual_embeds": list(deepstack.to(hidden.dtype))}
        spatial = "VL" in type(text).__name__
        positions = positions[:, None] if spatial else positions[:1]
        mask = mask[None, None] if isinstance(mask, torch.Tensor) else mask
        out = text(inputs_embeds=hidden, position_ids=positions, attention_mask=mask, use_cache=False, **more)
        return (out.last_hidden_state[0, rows] @ self.head.to(out.last_hidden_state.dtype).T).float()


def load_tunable(directory, device="cpu", dtype=torch.float32):
    """A `TunableDecoder` with the checkpoint's weights on `device`. Raises CheckpointError for what none of the five families is."""
    directory = Path(directory)
    config, files = ModelConfig.from_directory(directory), TensorFiles(directory)
    layout = find_layout(config, files.names)
    text, path = _empty(directory, layout)
    text = text.to_empty(device=device).to(dtype)
    _fill_rotary(text, device)
    with torch.no_grad():
        for name, parameter in text.named_parameters():
            parameter.copy_(files.tensor(layout.text + name))
        head = text.embed_tokens.weight if config.decoder.tied else files.tensor(layout.head).to(device, dtype)
    text.requires_grad_(False)
    return TunableDecoder(text, path, head.detach(), directory)


def _empty(directory, layout):
    """The text model without weights, and its path in the whole model."""
    described = read_json(directory, "config.json", "sizes and architecture")
    if hasattr(transformers, described["architectures"][0]):
        config = transformers.AutoConfig.from_pretrained(directory, trust_remote_code=False)
        with torch.device("meta"):
            whole = transformers.AutoModelForImageTextToText.from_config(config)
        return whole.model.language_model, ("model", "language_model")
    described = described.get("llm_config") or described  # the decoder of both is a Qwen3
    other = ("architectures", "auto_map", "model_type")
    config = transformers.Qwen3Config(**{key: value for key, value in described.items() if key not in other})
    with torch.device("meta"):
        return transformers.Qwen3Model(config), tuple(layout.text.strip(".").split("."))


def _fill_rotary(text, device):
    """Buffers that no file holds: the rotary frequencies are computed anew on the device."""
    text.rotary_emb = type(text.rotary_emb)(config=text.config).to(device)
