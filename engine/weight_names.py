"""Where each parameter of the engine comes from in a checkpoint: tensor names of the published files and of transformers 5, as data.

A table maps a parameter (`{i}` stands for an index) to its sources. Several sources are stacked along the rows: that is how q, k, v and
gate, up become one matrix. Every layout of a family is a list of prefixes and tables; the first one whose embedding is in the files counts.
"""

import re
from dataclasses import dataclass

DECODER = {
    "embed.weight": ["embed_tokens.weight"],
    "norm.weight": ["norm.weight"],
    "layers.{i}.input_norm.weight": ["layers.{i}.input_layernorm.weight"],
    "layers.{i}.post_norm.weight": ["layers.{i}.post_attention_layernorm.weight"],
    "layers.{i}.qkv.weight": [f"layers.{{i}}.self_attn.{x}_proj.weight" for x in "qkv"],
    "layers.{i}.qkv.bias": [f"layers.{{i}}.self_attn.{x}_proj.bias" for x in "qkv"],
    "layers.{i}.q_norm.weight": ["layers.{i}.self_attn.q_norm.weight"],
    "layers.{i}.k_norm.weight": ["layers.{i}.self_attn.k_norm.weight"],
    "layers.{i}.o.weight": ["layers.{i}.self_attn.o_proj.weight"],
    "layers.{i}.gate_up.weight": ["layers.{i}.mlp.gate_proj.weight", "layers.{i}.mlp.up_proj.weight"],
    "layers.{i}.down.weight": ["layers.{i}.mlp.down_proj.weight"],
}


def both(table):
    """Expand entries written without an ending to their weight and bias."""
    return {f"{target}.{kind}": [f"{name}.{kind}" for name in names] for target, names in table.items() for kind in ("weight", "bias")}


QWEN_PATCHES = {
    "patch_embed.pair": ["patch_embed.proj.weight"],
    "patch_embed.single": ["patch_embed.proj.weight"],
    "patch_embed.bias": ["patch_embed.proj.bias"],
}
QWEN_BLOCK = {
    "blocks.{i}.norm1": ["blocks.{i}.norm1"],
    "blocks.{i}.norm2": ["blocks.{i}.norm2"],
    "blocks.{i}.attention.qkv": ["blocks.{i}.attn.qkv"],
    "blocks.{i}.attention.proj": ["blocks.{i}.attn.proj"],
}
QWEN2_MERGER = {"merger.norm": ["merger.ln_q"], "merger.fc1": ["merger.mlp.0"], "merger.fc2": ["merger.mlp.2"]}
QWEN2 = QWEN_PATCHES | both(
    QWEN_BLOCK | QWEN2_MERGER | {"blocks.{i}.fc1": ["blocks.{i}.mlp.fc1"], "blocks.{i}.fc2": ["blocks.{i}.mlp.fc2"]}
)
QWEN2_5 = QWEN_PATCHES | both(
    QWEN_BLOCK
    | QWEN2_MERGER
    | {
        "blocks.{i}.gate_up": ["blocks.{i}.mlp.gate_proj", "blocks.{i}.mlp.up_proj"],
        "blocks.{i}.down": ["blocks.{i}.mlp.down_proj"],
    }
)
QWEN3 = (
    QWEN_PATCHES
    | {"table": ["pos_embed.weight"]}
    | both(
        QWEN_BLOCK
        | {"blocks.{i}.fc1": ["blocks.{i}.mlp.linear_fc1"], "blocks.{i}.fc2": ["blocks.{i}.mlp.linear_fc2"]}
        | {f"merger.{ours}": [f"merger.{theirs}"] for ours, theirs in (("norm", "norm"), ("fc1", "linear_fc1"), ("fc2", "linear_fc2"))}
        | {
            f"deepstack.{{i}}.{ours}": [f"deepstack_merger_list.{{i}}.{theirs}"]
            for ours, theirs in (("norm", "norm"), ("fc1", "linear_fc1"), ("fc2", "linear_fc2"))
        }
    )
)
INTERNVL_HF = {
    "class_token": ["vision_tower.embeddings.cls_token"],
    "table": ["vision_tower.embeddings.position_embeddings"],
    "blocks.{i}.scale1": ["vision_tower.encoder.layer.{i}.lambda_1"],
    "blocks.{i}.scale2": ["vision_tower.encoder.layer.{i}.lambda_2"],
} | both(
    {
        "patch_embed.proj": ["vision_tower.embeddings.patch_embeddings.projection"],
        "blocks.{i}.norm1": ["vision_tower.encoder.layer.{i}.layernorm_before"],
        "blocks.{i}.norm2": ["vision_tower.encoder.layer.{i}.layernorm_after"],
        "blocks.{i}.attention.qkv": [f"vision_tower.encoder.layer.{{i}}.attention.{x}_proj" for x in "qkv"],
        "blocks.{i}.attention.proj": ["vision_tower.encoder.layer.{i}.attention.projection_layer"],
        "blocks.{i}.fc1": ["vision_tower.encoder.layer.{i}.mlp.fc1"],
        "blocks.{i}.fc2": ["vision_tower.encoder.layer.{i}.mlp.fc2"],
        "merger.norm": ["multi_modal_projector.layer_norm"],
        "merger.fc1": ["multi_modal_projector.linear_1"],
        "merger.fc2": ["multi_modal_projector.linear_2"],
    }
)
INTERNVL_CHAT = {
    "class_token": ["vision_model.embeddings.class_embedding"],
    "table": ["vision_model.embeddings.position_embedding"],
    "blocks.{i}.scale1": ["vision_model.encoder.layers.{i}.ls1"],
    "blocks.{i}.scale2": ["vision_model.encoder.layers.{i}.ls2"],
} | both(
    {
        "patch_embed.proj": ["vision_model.embeddings.patch_embedding"],
        "blocks.{i}.norm1": ["vision_model.encoder.layers.{i}.norm1"],
        "blocks.{i}.norm2": ["vision_model.encoder.layers.{i}.norm2"],
        "blocks.{i}.attention.qkv": ["vision_model.encoder.layers.{i}.attn.qkv"],
        "blocks.{i}.attention.proj": ["vision_model.encoder.layers.{i}.attn.proj"],
        "blocks.{i}.fc1": ["vision_model.encoder.layers.{i}.mlp.fc1"],
        "blocks.{i}.fc2": ["vision_model.encoder.layers.{i}.mlp.fc2"],
        "merger.norm": ["mlp1.0"],
        "merger.fc1": ["mlp1.1"],
        "merger.fc2": ["mlp1.3"],
    }
)
MINICPM = {
    "table": ["vpm.embeddings.position_embedding.weight"],
    "resampler.query": ["resampler.query"],
    "resampler.proj": ["resampler.proj"],
    "resampler.kv_proj.weight": ["resampler.kv_proj.weight"],
    "resampler.in_proj.weight": ["resampler.attn.in_proj_weight"],
    "resampler.in_proj.bias": ["resampler.attn.in_proj_bias"],
} | both(
    {
        "patch_embed.proj": ["vpm.embeddings.patch_embedding"],
        "blocks.{i}.norm1": ["vpm.encoder.layers.{i}.layer_norm1"],
        "blocks.{i}.norm2": ["vpm.encoder.layers.{i}.layer_norm2"],
        "blocks.{i}.attention.qkv": [f"vpm.encoder.layers.{{i}}.self_attn.{x}_proj" for x in "qkv"],
        "blocks.{i}.attention.proj": ["vpm.encoder.layers.{i}.self_attn.out_proj"],
        "blocks.{i}.fc1": ["vpm.encoder.layers.{i}.mlp.fc1"],
        "blocks.{i}.fc2": ["vpm.encoder.layers.{i}.mlp.fc2"],
        "post_norm": ["vpm.post_layernorm"],
        "resampler.out_proj": ["resampler.attn.out_proj"],
        "resampler.norm_query": ["resampler.ln_q"],
        "resampler.norm_key": ["resampler.ln_kv"],
        "resampler.norm_out": ["resampler.ln_post"],
    }
)


@dataclass(frozen=True)
class Layout:
    """One way of naming a family's tensors: prefix of the decoder's names, name of the head, prefix and table of the tower's names."""

    text: str
    head: str
    vision: str
    tower: dict

    def sources(self, parameter):
        """Source names of `tower.<...>` or `decoder.<...>`, stacked along the rows in this order."""
        part, _, name = parameter.partition(".")
        if name == "lm_head.weight":
            return [self.head]
        index = re.search(r"\.(\d+)\.", name)
        pattern = name if index is None else name.replace(index[0], ".{i}.", 1)
        table, prefix = (self.tower, self.vision) if part == "tower" else (DECODER, self.text)
        return [prefix + source.replace("{i}", index[1] if index else "") for source in table[pattern]]

    @property
    def embedding(self):
        return self.text + "embed_tokens.weight"


def qwen_layouts(tower):
    """Names as published for Qwen2-VL and 2.5-VL, and as published for Qwen3-VL, which are those of transformers 5."""
    return [
        Layout("model.", "lm_head.weight", "visual.", tower),
        Layout("model.language_model.", "lm_head.weight", "model.visual.", tower),
    ]


LAYOUTS = {
    "qwen2_vl": qwen_layouts(QWEN2),
    "qwen2_5_vl": qwen_layouts(QWEN2_5),
    "qwen3_vl": qwen_layouts(QWEN3)[::-1],
    "internvl3_5": [
        Layout("language_model.model.", "language_model.lm_head.weight", "", INTERNVL_HF),
        Layout("language_model.model.", "language_model.lm_head.weight", "", INTERNVL_CHAT),
        Layout("model.language_model.", "lm_head.weight", "model.", INTERNVL_HF),
    ],
    "minicpm_v_4_5": [Layout("llm.model.", "llm.lm_head.weight", "", MINICPM)],
}


def head_names(config):
    """Every name that the output head of this family may have."""
    return {layout.head for layout in LAYOUTS[config.family]}


def find_layout(config, names):
    """The layout that names the most of these tensors; the first one on a tie."""
    probes = ["decoder.embed.weight", "tower.merger.fc1.weight", "tower.blocks.0.norm1.weight"]

    def known(layout):
        return sum(source in names for probe in probes for source in sources_or_none(layout, probe))

    return max(LAYOUTS[config.family], key=known)


def sources_or_none(layout, parameter):
    try:
        return layout.sources(parameter)
    except KeyError:
        return []
