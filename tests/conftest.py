"""Golden checkpoints that come from outside our code, engines on them, random frames, and what marks mean."""

import json
import os
from functools import cached_property
from pathlib import Path

import pytest
import torch

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl3_5", "minicpm_v_4_5")
SHARED = Path(os.environ.get("EVOSTREAMING_SHARED") or Path(__file__).resolve().parents[2] / "shared")

torch.set_num_threads(1)  # the models are tiny; two tests side by side are faster than two threads


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def shared():
    """The folder of reference data: beside the checkout, or where EVOSTREAMING_SHARED says."""
    if not SHARED.is_dir():
        pytest.skip(f"the reference data is not at {SHARED}; EVOSTREAMING_SHARED may name another folder")
    return SHARED


class Golden:
    """One family's tiny checkpoint and the trace of a six-turn stream computed by the reference implementation in float32."""

    def __init__(self, root):
        from safetensors.torch import load_file

        self.root, self.checkpoint, self.family = root, root / "checkpoint", root.name
        self.trace = json.loads((root / "trace.json").read_text())
        self.tensors = load_file(root / "trace.safetensors")
        self.turns = self.trace["turns"]
        self.scale = self.trace["logits_abs_max"]
        self.query = next(part["text"] for part in self.turns[0]["user"] if part["type"] == "text")

    @cached_property
    def config(self):
        from evostreaming.engine.config import ModelConfig

        return ModelConfig.from_directory(self.checkpoint)

    @cached_property
    def model(self):
        """The checkpoint in float32 on the CPU; not to be changed."""
        from evostreaming.engine.checkpoint import load_model

        return load_model(self.checkpoint, self.config)

    @cached_property
    def format(self):
        from evostreaming.engine.prompts import TurnFormat

        return TurnFormat(self.checkpoint, self.config.turn)

    def frame(self, index):
        return self.tensors["frames"][index % len(self.turns)]

    def force(self, index):
        reply = self.turns[index]["reply"]
        return False if reply == "SILENT" else reply

    def error(self, logits, index):
        """Largest difference from the golden decision logits of a turn, relative to their scale."""
        return ((logits.cpu() - self.tensors[f"turn{index}.logits"]).abs().max() / self.scale).item()

    def rows(self, turn):
        """Stored official pixel values of a turn: (patch rows, grid)."""
        values = self.tensors[f"turn{turn}.pixel_values"]
        stored = self.tensors.get(f"turn{turn}.image_grid_thw", self.tensors.get(f"turn{turn}.tgt_size"))
        patch = self.config.vision.patch
        grid = tuple(side // patch for side in values.shape[2:]) if stored is None else tuple(stored[-2:].tolist())
        return self.patch_rows(values, grid), grid

    def patch_rows(self, values, grid):
        """Official pixel values of one frame, in any of the three official layouts, as patch rows in the tower's order."""
        (gh, gw), patch = grid, self.config.vision.patch
        if values.dim() == 2:  # both temporal slices of a still frame
            return values.view(len(values), 3, 2, -1)[:, :, 0].flatten(1)
        if values.dim() == 3:  # patches side by side
            return values.reshape(3, patch, gh, gw, patch).permute(2, 3, 0, 1, 4).reshape(gh * gw, -1)
        blocks = values[0].reshape(3, gh // 2, 2, patch, gw // 2, 2, patch)
        return blocks.permute(1, 4, 2, 5, 0, 3, 6).reshape(gh * gw, -1)


@pytest.fixture(scope="session")
def golden(shared):
    """golden(family) -> Golden."""
    loaded = {}

    def load(family):
        root = shared / "data" / "golden" / family
        if not root.is_dir():
            pytest.skip(f"no golden trace of {family} in {root.parent}")
        if family not in loaded:
            loaded[family] = Golden(root)
        return loaded[family]

    return load


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def make_engine():
    """make_engine(golden or directory, **options) -> a float32 engine on the CPU."""
    from evostreaming.engine.engine import Engine
    from evostreaming.engine.gate import Gate

    def make(source, **options):
        usual = {"device": "cpu", "dtype": "float32", "max_streams": 4, "max_tokens": 2048, "gate": Gate("greedy"), "max_reply": 6}
        return Engine.from_pretrained(getattr(source, "checkpoint", source), **(usual | options))

    return make


@pytest.fixture
def noise():
    """noise(count, height, width, seed) -> random uint8 frames."""

    def make(count, height=112, width=140, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return [torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator) for _ in range(count)]

    return make
