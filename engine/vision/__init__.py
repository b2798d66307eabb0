"""Vision towers, one family a file: patches in, visual tokens out."""

from .internvl import InternVLTower
from .minicpm import MiniCPMTower
from .qwen2_5_vl import Qwen25Tower
from .qwen2_vl import Qwen2Tower
from .qwen3_vl import Qwen3Tower
from .tower import Tower, VisualTokens

TOWERS = {
    "qwen2_vl": Qwen2Tower,
    "qwen2_5_vl": Qwen25Tower,
    "qwen3_vl": Qwen3Tower,
    "internvl": InternVLTower,
    "minicpm": MiniCPMTower,
}


def build_tower(config):
    """The tower that a `VisionConfig` names, with uninitialized weights."""
    return TOWERS[config.tower](config)


__all__ = ["TOWERS", "Tower", "VisualTokens", "build_tower"]
