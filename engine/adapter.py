"""PEFT LoRA adapters, merged into the fused weights at load."""

import re
from collections import defaultdict
from pathlib import Path

from .config import read_json
from .errors import CheckpointError
from .locate import locate_adapter
from .tensor_files import TensorFiles

PREFIX = "base_model.model."
PART = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.default)?\.weight$")
# These start from altered base weights, which the adapter file does not hold.
ALTERED_BASE = ("pissa", "olora", "loftq", "corda")


def merge_adapter(directory, model):
    """Add every B @ A * scale of a PEFT directory (adapter_config.json, adapter_model.safetensors) to the model's weights, in float32.

    Fully trained modules in the adapter replace their weights. Raises CheckpointError for other adapter types, pickled files and tensors
    that belong to no weight of the model; in that case the model is unchanged.
    """
    from .checkpoint import all_placements, check_shape

    directory = locate_adapter(directory)
    config = read_json(directory, "adapter_config.json", "rank and scale of the adapter")
    check_type(directory, config)
    files = TensorFiles(directory, stem="adapter_model")
    places = all_placements(model)
    pairs, replaced, unmatched = sort_tensors(files, places)
    if unmatched:
        raise CheckpointError(
            f"{Path(directory)} holds {len(unmatched)} tensors that fit no linear weight of {model.config.family}: "
            f"{', '.join(unmatched[:3])}; the adapter was trained for another model"
        )
    for module, (a, b) in pairs.items():
        place = places[module + ".weight"][0]
        shape, product = place.shape, (files.shape(b)[0], files.shape(a)[1])
        if shape != product or files.shape(a)[0] != files.shape(b)[1]:
            raise CheckpointError(f"adapter of {module} has shapes {files.shape(b)} @ {files.shape(a)}, but the weight has {shape}")
    for name, source in replaced.items():
        check_shape(name, files.shape(source), places[name])
    # Replacements first: PEFT stores the plain head beside the pair that is added to it.
    for name, source in replaced.items():
        for place in places[name]:
            place.fill(files.tensor(source), model.config.vision.patch)
    for module, (a, b) in pairs.items():
        rows = places[module + ".weight"][0].rows
        a, b = (files.tensor(name).to(rows.device).float() for name in (a, b))
        rows.copy_(rows.float() + (b @ a) * scale(config, module, len(a)))


def check_type(directory, config):
    """CheckpointError unless this is a LoRA whose merge is B @ A * scale."""
    refused = {
        "peft_type": config.get("peft_type") != "LORA",
        "use_dora": bool(config.get("use_dora")),
        "fan_in_fan_out": bool(config.get("fan_in_fan_out")),
        "lora_bias": bool(config.get("lora_bias")),
        "init_lora_weights": str(config.get("init_lora_weights")).startswith(ALTERED_BASE),
    }
    for key, wrong in refused.items():
        if wrong:
            raise CheckpointError(
                f'{directory}/adapter_config.json states "{key}": {config.get(key)!r}; only plain LoRA adapters are merged; '
                "merge it with PEFT (merge_and_unload) and load the result instead"
            )


def sort_tensors(files, places):
    """({module: (A, B)}, {weight name: tensor name}, names that match nothing)."""
    halves, replaced, unmatched = defaultdict(dict), {}, []
    for tensor in files.names:
        name = tensor.removeprefix(PREFIX)
        part = PART.match(name)
        plain = name.replace(".modules_to_save.default", "").replace(".modules_to_save", "").replace(".base_layer", "")
        if part and mergeable(places, part["module"]):
            halves[part["module"]][part["side"]] = tensor
        elif part is None and plain in places:
            replaced[plain] = tensor
        else:
            unmatched.append(tensor)
    unmatched += [next(iter(half.values())) for half in halves.values() if len(half) < 2]
    return {module: (half["A"], half["B"]) for module, half in halves.items() if len(half) == 2}, replaced, unmatched


def mergeable(places, module):
    """Whether the module is a linear layer: one matrix, filled from one place. The patch embedding is a convolution and is not."""
    found = places.get(module + ".weight", [])
    return len(found) == 1 and len(found[0].shape) == 2


def scale(config, module, rank):
    """alpha / rank, or alpha / sqrt(rank) for rank-stabilized LoRA; alpha_pattern overrides alpha by module."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = value
            break
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
