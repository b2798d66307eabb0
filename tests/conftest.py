"""Where tests find the golden data that comes from outside our code, and what marks mean."""

import json
from pathlib import Path

import pytest
import torch

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl3_5", "minicpm_v_4_5")
SHARED = Path(__file__).resolve().parents[2] / "shared"

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
    """The folder of reference data beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the reference data is not beside this checkout (../shared)")
    return SHARED


class Golden:
    """One family's tiny checkpoint and the trace of a six-turn stream computed by the reference implementation in float32."""

    def __init__(self, root):
        from safetensors.torch import load_file

        self.root, self.checkpoint = root, root / "checkpoint"
        self.trace = json.loads((root / "trace.json").read_text())
        self.tensors = load_file(root / "trace.safetensors")
        self.turns = self.trace["turns"]
        self.scale = self.trace["logits_abs_max"]
        self.query = next(part["text"] for part in self.turns[0]["user"] if part["type"] == "text")

    def frame(self, index):
        return self.tensors["frames"][index % len(self.turns)]

    def force(self, index):
        reply = self.turns[index]["reply"]
        return False if reply == "SILENT" else reply

    def error(self, logits, index):
        """Largest difference from the golden decision logits of a turn, relative to their scale."""
        return ((logits.cpu() - self.tensors[f"turn{index}.logits"]).abs().max() / self.scale).item()


@pytest.fixture(scope="session")
def golden(shared):
    """golden(family) -> Golden."""
    loaded = {}

    def load(family):
        root = shared / "data" / "golden" / family
        if not root.is_dir():
            pytest.skip(f"no golden trace of {family} beside this checkout")
        return loaded.setdefault(family, Golden(root))

    return load


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param
