"""The model on disk as a Hugging Face directory with the published tensor names, and back. safetensors and JSON only."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from .model import Sizes, TinyVL
from .pixels import MEAN, STD
from .tokenizer import SPECIAL
from .world import FRAME_SIZE

PATCH = "visual.patch_embed.proj.weight"
TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' -%}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}{%- endif -%}"
    "{%- for m in messages -%}{{- '<|im_start|>' ~ m['role'] ~ '\\n' -}}"
    "{%- if m['content'] is string -%}{{- m['content'] -}}{%- else -%}{%- for part in m['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part['type'] == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- elif 'text' in part -%}{{- part['text'] -}}{%- endif -%}{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
# The base never learned to be quiet, so silent turns had better leave nothing but their frame.
STREAMING = {"silence": "SILENT", "reply_marker": None, "history": "replies", "system": "You are a helpful assistant."}


def published(model: TinyVL, dtype=torch.bfloat16) -> dict[str, torch.Tensor]:
    """Tensors under their published names: the patch embedding again with two temporal slices, each half of the sum; no tied head."""
    out = {name: p.detach().to("cpu", dtype).contiguous() for name, p in model.named_parameters()}
    folded, p = model.visual.patch_embed.proj.weight.detach().cpu().float(), model.sizes.patch
    half = folded.view(-1, 3, 1, p, p) / 2
    out[PATCH] = half.expand(-1, 3, 2, p, p).to(dtype).contiguous()
    return out


def save(model: TinyVL, tokenizer: Tokenizer, folder: Path) -> str:
    """Write the directory; returns the sha256 of `model.safetensors`, also written beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(published(model), folder / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    end, pad = special["<|im_end|>"], special["<|endoftext|>"]
    added = {
        str(i): {"content": n, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
        for n, i in special.items()
    }
    files = {
        "config.json": _config(model.sizes, special),
        "generation_config.json": {"bos_token_id": pad, "pad_token_id": pad, "eos_token_id": [end, pad], "do_sample": False},
        "preprocessor_config.json": {
            "min_pixels": FRAME_SIZE**2,
            "max_pixels": FRAME_SIZE**2,
            "patch_size": model.sizes.patch,
            "temporal_patch_size": 2,
            "merge_size": model.sizes.merge,
            "image_mean": MEAN,
            "image_std": STD,
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        },
        "tokenizer_config.json": {
            "add_bos_token": False,
            "add_prefix_space": False,
            "added_tokens_decoder": added,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "errors": "replace",
            "model_max_length": 8192,
            "split_special_tokens": False,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
        "chat_template.json": {"chat_template": TEMPLATE},
        "streaming.json": STREAMING,
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "model.safetensors.sha256").write_text(f"{digest}  model.safetensors\n")
    return digest


def load(folder: Path) -> tuple[TinyVL, Tokenizer]:
    """The trainable model, float32, from a directory that `save` wrote."""
    config = json.loads((folder / "config.json").read_text())
    vision = config["vision_config"]
    sizes = Sizes(
        config["vocab_size"],
        config["hidden_size"],
        config["num_hidden_layers"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["intermediate_size"],
        vision["hidden_size"],
        vision["depth"],
        vision["num_heads"],
        vision["intermediate_size"],
    )
    model = TinyVL(sizes)
    tensors = {name: t.float() for name, t in load_file(folder / "model.safetensors").items()}
    tensors[PATCH] = tensors[PATCH].sum(2).flatten(1)
    model.load_state_dict(tensors)
    return model, Tokenizer.from_file(str(folder / "tokenizer.json"))


def _config(sizes, special):
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "attention_dropout": 0.0,
        "bos_token_id": special["<|endoftext|>"],
        "eos_token_id": special["<|im_end|>"],
        "vision_start_token_id": special["<|vision_start|>"],
        "vision_end_token_id": special["<|vision_end|>"],
        "vision_token_id": special["<|vision_pad|>"],
        "image_token_id": special["<|image_pad|>"],
        "video_token_id": special["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": sizes.hidden,
        "initializer_range": 0.02,
        "intermediate_size": sizes.intermediate,
        "max_position_embeddings": 32768,
        "max_window_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "num_key_value_heads": sizes.kv_heads,
        "rms_norm_eps": sizes.eps,
        "rope_theta": sizes.theta,
        "rope_scaling": {"type": "mrope", "mrope_section": list(sizes.sections)},
        "sliding_window": 32768,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": sizes.vision_depth,
            "hidden_act": "silu",
            "hidden_size": sizes.vision_hidden,
            "intermediate_size": sizes.vision_intermediate,
            "num_heads": sizes.vision_heads,
            "in_chans": 3,
            "out_hidden_size": sizes.hidden,
            "patch_size": sizes.patch,
            "spatial_merge_size": sizes.merge,
            "spatial_patch_size": sizes.patch,
            "window_size": FRAME_SIZE,
            "fullatt_block_indexes": [sizes.vision_depth - 1],
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        },
        "vocab_size": sizes.vocabulary,
    }
