"""Weights onto the device: mapped files are copied tensor by tensor straight into the fused parameters.

The model is built on the meta device and gets its memory once, in the wanted dtype, so the host never holds a second copy.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from .config import ModelConfig
from .decoder import Decoder
from .errors import CheckpointError
from .quantization import check_quantization, quantize_model
from .tensor_files import TensorFiles
from .vision import Tower, build_tower
from .vision.tower import TemporalPatchEmbed, fold_pair
from .weight_names import LAYOUTS, find_layout

FOLDED = "patch_embed.single"
STORED = ("F32", "BF16", "F16")


@dataclass
class Model:
    """A loaded checkpoint: tower and decoder on one device, in one dtype, without gradients."""

    config: ModelConfig
    tower: Tower
    decoder: Decoder


class Placement(NamedTuple):
    """Rows `start:stop` of a parameter, filled from one source tensor; `fold`: by the sum of its temporal slices."""

    parameter: nn.Parameter
    start: int
    stop: int
    fold: bool

    @property
    def rows(self):
        return self.parameter[self.start : self.stop]

    @property
    def shape(self):
        return tuple(self.rows.shape)

    def fill(self, tensor, patch):
        """Copy a source tensor (any float dtype, on any device) into the rows."""
        tensor = tensor.to(self.parameter.device)
        self.rows.copy_(fold_pair(tensor, patch) if self.fold else tensor.reshape(self.shape))


def load_model(directory, config, device="cpu", dtype=torch.float32, adapter=None, quantization=None):
    """Load a checkpoint directory, merge a PEFT LoRA directory if given, then quantize if asked for ("fp8"). Returns a `Model`.

    Raises CheckpointError if tensors are missing, of the wrong shape or beyond what the config states, or if a file cannot be read, and
    ArgumentError where the device, the dtype or the model's sizes do not go with the quantization.
    """
    from .adapter import merge_adapter

    check_quantization(quantization, torch.device(device), dtype, config.decoder)
    files = TensorFiles(directory)
    model = allocate(config, device, dtype)
    fill(model, files)
    if adapter is not None:
        with torch.no_grad():
            merge_adapter(adapter, model)
    if quantization is not None:
        quantize_model(model)
    return model


@torch.no_grad()
def fill(model, files):
    """Copy every tensor to its places. These hold the parameters, and end here: what `quantize_model` replaces has to be free at once."""
    config = model.config
    places = placements(model, find_layout(config, files.names))
    check(places, files, config)
    for name, tensor in files.in_order():
        for place in places.get(name, ()):
            place.fill(tensor, config.vision.patch)


def random_model(config, device="cpu", dtype=torch.float32, seed=0):
    """The same `Model` with random weights made on the device: matrices ~ 1/sqrt(fan in), norm scales near 1, for benchmarks and tests."""
    model = allocate(config, device, dtype)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in named_parameters(model):
            if parameter.dim() > 1:
                table = "embed" in name or name.endswith("table")
                parameter.normal_(std=0.5 if table and "patch" not in name else parameter.shape[1] ** -0.5, generator=generator)
            else:
                parameter.normal_(mean=0.0 if name.endswith("bias") else 1.0, std=0.1, generator=generator)
        for module in model.tower.modules():
            if isinstance(module, TemporalPatchEmbed):
                module.single.copy_(fold_pair(module.pair, config.vision.patch))
    return model


def allocate(config, device, dtype):
    """A `Model` with uninitialized memory on the device."""
    with torch.device("meta"):
        model = Model(config, build_tower(config.vision), Decoder(config.decoder))
    for module in (model.tower, model.decoder):
        module.to(dtype).to_empty(device=device).requires_grad_(False).eval()
    return model


def named_parameters(model):
    """(name, parameter) of both parts, names starting with `tower.` or `decoder.`."""
    for part in ("tower", "decoder"):
        for name, parameter in getattr(model, part).named_parameters():
            yield f"{part}.{name}", parameter


def placements(model, layout):
    """{source tensor name: [Placement, ...]} of a layout; together they cover every parameter."""
    places = {}
    for name, parameter in named_parameters(model):
        start = 0
        sources = layout.sources(name)
        for source, rows in zip(sources, split_rows(model.config, name, len(parameter), len(sources))):
            places.setdefault(source, []).append(Placement(parameter, start, start + rows, name.endswith(FOLDED)))
            start += rows
    return places


def split_rows(config, name, rows, count):
    """How many rows of a parameter each of its `count` sources fills: equal parts, except the decoder's q, k and v."""
    if name.startswith("decoder.") and count == 3:
        keys = config.decoder.kv_heads * config.decoder.head_dim
        return [rows - 2 * keys, keys, keys]
    return [rows // count] * count


def check(places, files, config):
    """CheckpointError for missing tensors, contradicting shapes, and layers that the config does not know."""
    missing = [name for name in places if name not in files.names]
    if missing:
        named = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise CheckpointError(f"{files.directory} lacks {len(missing)} tensors of {config.family}: {named}; fetch the complete checkpoint")
    for name, places_of_name in places.items():
        check_shape(name, files.shape(name), places_of_name)
        if files.dtype(name) not in STORED:
            stored = files.dtype(name)
            raise CheckpointError(f"{name} is stored as {stored}; accepted are {', '.join(STORED)}: use the unquantized checkpoint")
    patterns = {without_numbers(name) for name in places}
    beyond = [name for name in files.names if name not in places and without_numbers(name) in patterns]
    if beyond:
        raise CheckpointError(
            f"{files.directory} holds {beyond[0]}, which config.json has no place for (it states {config.decoder.layers} decoder and "
            f"{config.vision.layers} vision layers); config and weights belong to different models"
        )


def check_shape(name, shape, places):
    """CheckpointError unless the tensor fits its places; leading ones and the axes of a patch do not count."""
    place = next((place for place in places if not place.fold), places[0])
    if squeezed(shape, len(place.shape)) != place.shape:
        expected = list(place.shape)
        raise CheckpointError(f"{name} has shape {list(shape)}, but config.json asks for {expected}: they belong to different models")


def squeezed(shape, dims):
    """`shape` without leading ones and with trailing axes flattened, down to `dims` axes."""
    while len(shape) > dims and shape[0] == 1:
        shape = shape[1:]
    if len(shape) > dims > 1:
        tail = 1
        for size in shape[dims - 1 :]:
            tail *= size
        shape = (*shape[: dims - 1], tail)
    return tuple(shape)


def without_numbers(name):
    return re.sub(r"\d+", "#", name)


def all_placements(model):
    """Placements under every name that any layout of the family gives: adapters are named by the library that trained them."""
    places = {}
    for layout in LAYOUTS[model.config.family]:
        places.update(placements(model, layout))
    return places
