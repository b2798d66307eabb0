"""The five families as data, and the readers of their configuration files.

A reader takes the parsed JSON and returns plain sizes; nothing after this file asks for a family's name.
Defaults of the libraries are never used: they belong to other sizes of the same family.
"""

from dataclasses import dataclass, field
from typing import Any

from .config import DecoderConfig, PixelConfig, TurnConfig, VisionConfig
from .errors import CheckpointError

QWEN_SYSTEM = "You are a helpful assistant."
QWEN_MARKERS = {"open": "<|vision_start|>", "pad": "<|image_pad|>", "close": "<|vision_end|>"}


def need(mapping, key, where):
    """mapping[key]; CheckpointError names the key and the section if it is absent."""
    if mapping.get(key) is None:
        raise CheckpointError(f'{where} has no "{key}"; copy the file from the published checkpoint')
    return mapping[key]


def side(value):
    """A size given as an int, [h, w] or {"height", "width"}: the length of the square's side."""
    if isinstance(value, dict):
        value = [value[key] for key in ("height", "width", "shortest_edge") if key in value]
    lengths = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(lengths) != 1:
        raise CheckpointError(f"size {value} in the configuration is not a square, which this family needs")
    return int(lengths.pop())


def qwen2_vision(vision, config, text):
    width = need(vision, "embed_dim", "vision_config")
    return VisionConfig(
        tower="qwen2_vl",
        hidden=width,
        layers=need(vision, "depth", "vision_config"),
        heads=need(vision, "num_heads", "vision_config"),
        intermediate=int(width * need(vision, "mlp_ratio", "vision_config")),
        out_hidden=text["hidden_size"],
        patch=need(vision, "patch_size", "vision_config"),
        merge=need(vision, "spatial_merge_size", "vision_config"),
    )


def qwen2_5_vision(vision, config, text):
    patch = need(vision, "patch_size", "vision_config")
    return VisionConfig(
        tower="qwen2_5_vl",
        hidden=need(vision, "hidden_size", "vision_config"),
        layers=need(vision, "depth", "vision_config"),
        heads=need(vision, "num_heads", "vision_config"),
        intermediate=need(vision, "intermediate_size", "vision_config"),
        out_hidden=need(vision, "out_hidden_size", "vision_config"),
        patch=patch,
        merge=need(vision, "spatial_merge_size", "vision_config"),
        window=need(vision, "window_size", "vision_config") // patch,
        full_attention=tuple(need(vision, "fullatt_block_indexes", "vision_config")),
    )


def qwen3_vision(vision, config, text):
    return VisionConfig(
        tower="qwen3_vl",
        hidden=need(vision, "hidden_size", "vision_config"),
        layers=need(vision, "depth", "vision_config"),
        heads=need(vision, "num_heads", "vision_config"),
        intermediate=need(vision, "intermediate_size", "vision_config"),
        out_hidden=need(vision, "out_hidden_size", "vision_config"),
        patch=need(vision, "patch_size", "vision_config"),
        merge=need(vision, "spatial_merge_size", "vision_config"),
        table=round(need(vision, "num_position_embeddings", "vision_config") ** 0.5),
        deepstack=tuple(need(vision, "deepstack_visual_indexes", "vision_config")),
    )


def internvl_vision(vision, config, text):
    patch = side(need(vision, "patch_size", "vision_config"))
    return VisionConfig(
        tower="internvl",
        hidden=need(vision, "hidden_size", "vision_config"),
        layers=need(vision, "num_hidden_layers", "vision_config"),
        heads=need(vision, "num_attention_heads", "vision_config"),
        intermediate=need(vision, "intermediate_size", "vision_config"),
        out_hidden=text["hidden_size"],
        patch=patch,
        merge=round(1 / need(config, "downsample_ratio", "config.json")),
        eps=vision.get("layer_norm_eps", 1e-6),
        table=side(need(vision, "image_size", "vision_config")) // patch,
    )


def minicpm_vision(vision, config, text):
    patch = need(vision, "patch_size", "vision_config")
    return VisionConfig(
        tower="minicpm",
        hidden=need(vision, "hidden_size", "vision_config"),
        layers=need(vision, "num_hidden_layers", "vision_config"),
        heads=need(vision, "num_attention_heads", "vision_config"),
        intermediate=need(vision, "intermediate_size", "vision_config"),
        out_hidden=text["hidden_size"],
        patch=patch,
        merge=1,
        table=need(vision, "image_size", "vision_config") // patch,
        queries=need(config, "query_num", "config.json"),
    )


def smart_pixels(preprocessor, vision):
    size = preprocessor.get("size")
    size = size if isinstance(size, dict) else {}
    low = preprocessor.get("min_pixels") or size.get("min_pixels") or size.get("shortest_edge")
    high = preprocessor.get("max_pixels") or size.get("max_pixels") or size.get("longest_edge")
    if not low or not high:
        raise CheckpointError('preprocessor_config.json states neither "min_pixels", "max_pixels" nor a "size" with the two edges')
    return {"rule": "smart", "merge": vision.merge, "unit": vision.patch * vision.merge, "min_pixels": low, "max_pixels": high}


def tile_pixels(preprocessor, vision):
    tile = side(preprocessor.get("size") or vision.table * vision.patch)
    return {"rule": "tile", "merge": vision.merge, "unit": vision.patch * vision.merge, "side": tile}


def area_pixels(preprocessor, vision):
    resolution = need(preprocessor, "scale_resolution", "preprocessor_config.json")
    return {"rule": "area", "merge": 1, "unit": vision.patch, "side": resolution, "fixed_tokens": vision.queries, "weight_bits": 23}


@dataclass(frozen=True)
class Family:
    """One row of the table. `fixed`: values that the code relies on, by section; `text`: where the decoder's sizes stand."""

    architectures: tuple[str, ...]
    qkv_bias: bool
    qk_norm: bool
    mrope: str | None
    vision: Any
    pixels: Any
    turn: TurnConfig
    text: tuple[str, ...] = ("text_config",)
    fixed: dict[str, dict[str, Any]] = field(default_factory=dict)


PLAIN_TEXT = {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False, "mlp_bias": False}
FAMILIES = {
    "qwen2_vl": Family(
        ("Qwen2VLForConditionalGeneration",),
        qkv_bias=True,
        qk_norm=False,
        mrope="chunked",
        vision=qwen2_vision,
        pixels=smart_pixels,
        turn=TurnConfig(system=QWEN_SYSTEM, **QWEN_MARKERS),
        fixed={"text": PLAIN_TEXT, "vision": {"hidden_act": "quick_gelu", "temporal_patch_size": 2}},
    ),
    "qwen2_5_vl": Family(
        ("Qwen2_5_VLForConditionalGeneration",),
        qkv_bias=True,
        qk_norm=False,
        mrope="chunked",
        vision=qwen2_5_vision,
        pixels=smart_pixels,
        turn=TurnConfig(system=QWEN_SYSTEM, **QWEN_MARKERS),
        fixed={"text": PLAIN_TEXT, "vision": {"hidden_act": "silu", "temporal_patch_size": 2}},
    ),
    "qwen3_vl": Family(
        ("Qwen3VLForConditionalGeneration",),
        qkv_bias=False,
        qk_norm=True,
        mrope="interleaved",
        vision=qwen3_vision,
        pixels=smart_pixels,
        turn=TurnConfig(system=None, timestamp="<{:.1f} seconds>", **QWEN_MARKERS),
        fixed={"text": PLAIN_TEXT, "vision": {"hidden_act": "gelu_pytorch_tanh", "temporal_patch_size": 2}},
    ),
    "internvl3_5": Family(
        ("InternVLForConditionalGeneration", "InternVLChatModel"),
        qkv_bias=False,
        qk_norm=True,
        mrope=None,
        vision=internvl_vision,
        pixels=tile_pixels,
        turn=TurnConfig(system=None, open="<img>", pad="<IMG_CONTEXT>", close="</img>", after="\n"),
        text=("text_config", "llm_config"),
        fixed={
            "text": {**PLAIN_TEXT, "model_type": "qwen3"},
            "vision": {
                "hidden_act": "gelu",
                "norm_type": "layer_norm",
                "use_qk_norm": False,
                "qk_normalization": False,
                "attention_bias": True,
                "qkv_bias": True,
                "use_mean_pooling": True,
            },
            "config": {"ps_version": "v2", "select_layer": -1, "vision_feature_layer": -1, "projector_hidden_act": "gelu"},
        },
    ),
    "minicpm_v_4_5": Family(
        ("MiniCPMV",),
        qkv_bias=False,
        qk_norm=True,
        mrope=None,
        vision=minicpm_vision,
        pixels=area_pixels,
        turn=TurnConfig(
            system=None, open="<image>", pad="<unk>", close="</image>", query_end="\n", think=("<think>", "\n\n", "</think>", "\n\n")
        ),
        # The same architecture name is used by MiniCPM-V 2.6 and 4.0, which have other decoders.
        fixed={"text": PLAIN_TEXT, "config": {"version": 4.5, "drop_vision_last_layer": False, "batch_3d_resampler": True}},
    ),
}


def read_family(model_config, config, preprocessor):
    """A `model_config(family, decoder, vision, pixels, turn)` from the two parsed files; CheckpointError if no family accepts them."""
    name, family = find_family(config)
    text = next((config[key] for key in family.text if isinstance(config.get(key), dict)), config)
    vision = need(config, "vision_config", "config.json")
    check_fixed(name, family, {"config": config, "text": text, "vision": vision})
    need(text, "hidden_size", "config.json")
    vision = family.vision(vision, config, text)
    decoder = read_decoder(config, text, family, vision)
    if vision.out_hidden != decoder.hidden:
        raise CheckpointError(f"config.json: the vision tower makes tokens of width {vision.out_hidden}, the decoder has {decoder.hidden}")
    constants = [preprocessor.get(f"image_{key}") or preprocessor.get(f"norm_{key}") for key in ("mean", "std")]
    if not all(isinstance(values, list) and len(values) == 3 for values in constants):
        raise CheckpointError("preprocessor_config.json has no image_mean and image_std of three numbers; copy the published file")
    mean, std = map(tuple, constants)
    pixels = PixelConfig(mean=mean, std=std, patch=vision.patch, **family.pixels(preprocessor, vision))
    return model_config(name, decoder, vision, pixels, family.turn)


def find_family(config):
    """(name, row) by the architecture that config.json states."""
    stated = config.get("architectures") or []
    for name, family in FAMILIES.items():
        if any(architecture in family.architectures for architecture in stated):
            return name, family
    accepted = "; ".join(f"{name}: {', '.join(family.architectures)}" for name, family in FAMILIES.items())
    raise CheckpointError(f"config.json states architecture {', '.join(stated) or 'none'}, which is not supported; accepted are {accepted}")


def check_fixed(name, family, sections):
    """CheckpointError if a stated value differs from what the family's code computes."""
    for section, expected in family.fixed.items():
        for key, value in expected.items():
            stated = sections[section].get(key)
            if stated is not None and stated != value:
                raise CheckpointError(f'config.json states "{key}": {stated!r}; {name} is supported with {value!r} only')


def read_decoder(config, text, family, vision):
    """DecoderConfig; rope parameters stand in `rope_scaling` + `rope_theta`, or since transformers 5 in `rope_parameters`."""
    rope = {**(text.get("rope_scaling") or {}), **(text.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise CheckpointError(f'config.json asks for rope type "{kind}"; accepted are "default" and "mrope"')
    section = tuple(need(rope, "mrope_section", "rope_scaling")) if family.mrope else None
    hidden, heads = text["hidden_size"], need(text, "num_attention_heads", "config.json")
    head_dim = text.get("head_dim") or hidden // heads
    if section is not None and sum(section) != head_dim // 2:
        raise CheckpointError(f"config.json: mrope_section {list(section)} must add up to half the head dimension, {head_dim // 2}")
    return DecoderConfig(
        hidden=hidden,
        layers=need(text, "num_hidden_layers", "config.json"),
        heads=heads,
        kv_heads=need(text, "num_key_value_heads", "config.json"),
        head_dim=head_dim,
        intermediate=need(text, "intermediate_size", "config.json"),
        vocab=need(text, "vocab_size", "config.json"),
        rope_theta=float(text.get("rope_theta") or need(rope, "rope_theta", "config.json")),
        rms_eps=need(text, "rms_norm_eps", "config.json"),
        qkv_bias=family.qkv_bias,
        qk_norm=family.qk_norm,
        mrope_section=section,
        mrope_interleaved=family.mrope == "interleaved",
        tied=bool(config.get("tie_word_embeddings", False)),
        deepstack=len(vision.deepstack),
    )
