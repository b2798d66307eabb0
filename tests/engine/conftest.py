"""Engines on the golden checkpoints."""

import pytest
import torch

from evostreaming.engine.engine import Engine
from evostreaming.engine.gate import Gate


@pytest.fixture
def make_engine():
    """make_engine(golden or directory, **options) -> a float32 engine on the CPU."""

    def make(source, **options):
        usual = {"device": "cpu", "dtype": "float32", "max_streams": 4, "max_tokens": 2048, "gate": Gate("greedy"), "max_reply": 6}
        options = usual | options
        return Engine.from_pretrained(getattr(source, "checkpoint", source), **options)

    return make


@pytest.fixture
def noise():
    """noise(count, height, width, seed) -> random uint8 frames."""

    def make(count, height=112, width=140, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return [torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator) for _ in range(count)]

    return make
