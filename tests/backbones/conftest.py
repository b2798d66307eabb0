"""Golden checkpoints of the five families, each loaded once; tests skip with a reason where the shared data is absent."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evostreaming.engine.checkpoint import Model, load_model
from evostreaming.engine.config import ModelConfig
from evostreaming.engine.prompts import TurnFormat

SHARED = Path(__file__).parents[3] / "shared"
FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl3_5", "minicpm_v_4_5"]
QWEN = FAMILIES[:3]


@dataclass
class Golden:
    """One family's golden checkpoint, loaded in float32, and its trace."""

    family: str
    root: Path
    directory: Path
    config: ModelConfig
    model: Model
    format: TurnFormat
    trace: dict
    tensors: dict

    def rows(self, turn):
        """Stored official pixel values of a turn as (patch rows of one frame in the tower's order, grid)."""
        values, patch = self.tensors[f"turn{turn}.pixel_values"], self.config.vision.patch
        if self.family in QWEN:
            return values.view(len(values), 3, 2, -1)[:, :, 0].flatten(1), tuple(self.tensors[f"turn{turn}.image_grid_thw"].tolist()[1:])
        if self.family == "minicpm_v_4_5":
            gh, gw = self.tensors[f"turn{turn}.tgt_size"].tolist()
            return values.reshape(3, patch, gh, gw, patch).permute(2, 3, 0, 1, 4).reshape(gh * gw, -1), (gh, gw)
        gh, gw = values.shape[2] // patch, values.shape[3] // patch
        blocks = values[0].reshape(3, gh // 2, 2, patch, gw // 2, 2, patch)
        return blocks.permute(1, 4, 2, 5, 0, 3, 6).reshape(gh * gw, -1), (gh, gw)


@lru_cache
def load_golden(family):
    root = SHARED / "data" / "golden" / family
    if not root.is_dir():
        pytest.skip(f"golden data of {family} is not at {root}")
    directory = root / "checkpoint"
    config = ModelConfig.from_directory(directory)
    trace = json.loads((root / "trace.json").read_text())
    tensors = load_file(root / "trace.safetensors")
    return Golden(family, root, directory, config, load_model(directory, config), TurnFormat(directory, config.turn), trace, tensors)


@pytest.fixture(params=FAMILIES)
def golden(request):
    return load_golden(request.param)


@pytest.fixture(scope="session")
def golden_of():
    """Load one family by name."""
    return load_golden


@pytest.fixture
def relative_error():
    """Largest deviation relative to the largest expected value."""
    return lambda got, expected: ((got - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture
def shared():
    if not SHARED.is_dir():
        pytest.skip(f"shared data is not at {SHARED}")
    return SHARED


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield
