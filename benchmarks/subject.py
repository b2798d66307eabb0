"""The model under test: its weights once, and as many engines and reference models over them as the rows of the bench need."""

import gc

import torch

from evostreaming.engine.device import choose_device, choose_dtype
from evostreaming.engine.engine import Engine
from evostreaming.engine.errors import ArgumentError
from evostreaming.engine.gate import Gate
from evostreaming.engine.locate import locate
from evostreaming.engine.quantization import check_quantization, quantize_model

from .random_checkpoint import MODELS, published_config, random_engine
from .reference_models import CLASSES, random_reference, same_weights

SPEAKS_ALWAYS = Gate(threshold=0.0)  # silence is forced where a row wants it; a reply can be had at any time


class Unavailable(Exception):
    """A peer or a row cannot be measured here; the text says why."""


class Subject:
    """A checkpoint directory ("tiny" is one), or a published size with random weights."""

    def __init__(self, name, engine, directory=None, reference=None, quantization=None):
        self.name, self.directory, self.quantization = name, directory, quantization
        self.model, self.config, self.device, self.dtype = engine.model, engine.config, engine.device, engine.dtype
        self.turn, self.streaming, self._reference = engine.dialogue.turn, engine.streaming, reference

    @classmethod
    def load(cls, model=None, random=None, device="auto", dtype="auto", quantization=None, peers=False):
        """model: a directory, hub id or "tiny"; random: a published size instead. peers: whether the reference's weights will be needed.
        Raises ArgumentError, CheckpointError, CapacityError."""
        device = choose_device(device)
        small = {"device": str(device), "dtype": dtype, "max_streams": 1, "max_tokens": 1024, "gate": SPEAKS_ALWAYS}
        if random is None:
            engine = Engine.from_pretrained(model, quantization=quantization, **small)
            return cls(str(model), engine, locate(model), quantization=quantization)
        if random not in MODELS:
            raise ArgumentError(f"--random {random} is none of {', '.join(MODELS)}")
        check_quantization(quantization, device, choose_dtype(dtype, device), published_config(random).decoder)
        reference = weights = None
        if peers and random in CLASSES:
            reference = random_reference(random, device, choose_dtype(dtype, device))
            weights = same_weights(random, reference)
        engine = random_engine(random, weights, **small)
        if quantization is not None:
            quantize_model(engine.model)
        return cls(f"{random}, random weights", engine, reference=reference, quantization=quantization)

    def engine(self, max_tokens, streams=1, tokens_per_frame=None):
        """An engine over the loaded weights with a cache for `streams` streams of `max_tokens`. Raises CapacityError."""
        release(self.device)
        return Engine(
            self.model, self.config, self.turn, self.streaming, max_streams=streams, max_tokens=max_tokens, frame_size=None,
            tokens_per_frame=tokens_per_frame, gate=SPEAKS_ALWAYS, history=None, max_reply=64,
        )  # fmt: skip

    def reference(self):
        """transformers' model with the same weights. Raises Unavailable."""
        if self._reference is None:
            if self.directory is None:
                raise Unavailable("transformers has no model of this family")
            import transformers

            transformers.utils.logging.disable_progress_bar()
            try:
                model = transformers.AutoModelForImageTextToText.from_pretrained(
                    self.directory, dtype=self.dtype, attn_implementation="sdpa"
                )
            except (ValueError, KeyError, OSError) as error:
                raise Unavailable(f"transformers cannot load it: {error}") from None
            self._reference = model.to(self.device).eval().requires_grad_(False)
        return self._reference

    @property
    def weight_bytes(self):
        """Bytes of a decoder weight as the engine multiplies it."""
        return 1 if self.quantization == "fp8" else self.dtype.itemsize


def release(device):
    """Give back the device memory of engines that are gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
