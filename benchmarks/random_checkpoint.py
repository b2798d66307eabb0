"""Engines of real size with random weights: the published configurations, a stand-in tokenizer with the real special ids, no download."""

import json
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from evostreaming.engine.checkpoint import random_model
from evostreaming.engine.config import ModelConfig
from evostreaming.engine.device import choose_device, choose_dtype
from evostreaming.engine.engine import Engine
from evostreaming.engine.gate import Gate
from evostreaming.engine.prompts import TurnFormat
from evostreaming.engine.streaming_format import StreamingFormat

CONFIGS = Path(__file__).parent / "configs"
MODELS = {
    "qwen2-vl-7b": "qwen2_vl_7b",
    "qwen2.5-vl-7b": "qwen2_5_vl_7b",
    "qwen3-vl-8b": "qwen3_vl_8b",
    "internvl3.5-8b": "internvl3_5_8b",
    "minicpm-v-4.5": "minicpm_v_4_5",
}
SPECIAL = {
    **{name: 151643 + index for index, name in enumerate(("<|endoftext|>", "<|im_start|>", "<|im_end|>"))},
    **{name: 151652 + index for index, name in enumerate(("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>"))},
    "<think>": 151667,
    "</think>": 151668,
}
FAMILY_SPECIAL = {
    "internvl3.5-8b": {"<img>": 151669, "</img>": 151670, "<IMG_CONTEXT>": 151671},
    "minicpm-v-4.5": {"<image>": 151669, "</image>": 151670, "<unk>": 128244},
}
WORDS = ("user", "assistant", "system", "SILENT")


def read_config(name):
    """(config, preprocessor) of a published checkpoint as parsed JSON."""
    file = MODELS[name]
    return tuple(json.loads((CONFIGS / f"{prefix}{file}.json").read_text()) for prefix in ("", "preprocessor_"))


def published_config(name):
    """`ModelConfig` of a published checkpoint."""
    return ModelConfig.from_json(*read_config(name))


def size_of(config):
    """The name of the published size that a ModelConfig is, or None."""
    published = {name: published_config(name) for name in MODELS}
    return next((name for name, one in published.items() if (one.decoder, one.vision) == (config.decoder, config.vision)), None)


def write_tokenizer(name, directory):
    """A byte-level tokenizer.json: 256 bytes, a few whole words, the special tokens at their real ids. Text ids have no meaning."""
    special = SPECIAL | FAMILY_SPECIAL.get(name, {})
    vocab = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if (word[: end - 1], word[end - 1]) not in merges:
                merges.append((word[: end - 1], word[end - 1]))
                vocab.setdefault(word[:end], len(vocab))
    vocab |= special
    taken = set(vocab.values())
    vocab |= {f"<filler_{index}>": index for index in range(max(taken)) if index not in taken}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(Path(directory) / "tokenizer.json"))


def turn_format(name):
    """The conversation format of a published size over the stand-in tokenizer."""
    with tempfile.TemporaryDirectory() as directory:
        write_tokenizer(name, directory)
        return TurnFormat(directory, published_config(name).turn)


def random_engine(name, model=None, device="auto", dtype="auto", **options):
    """An Engine of a published size. `model`: weights to use instead of random ones (an `engine.checkpoint.Model`)."""
    config = published_config(name)
    device = choose_device(device)
    model = model or random_model(config, device, choose_dtype(dtype, device))
    usual = {"max_streams": 1, "max_tokens": 16384, "frame_size": None, "tokens_per_frame": None, "gate": Gate()}
    return Engine(model, config, turn_format(name), StreamingFormat(), **(usual | {"history": None, "max_reply": 64} | options))
