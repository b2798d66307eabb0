"""The clip of `evostreaming demo`, and what to ask about it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from .engine.errors import VideoError

CLIPS = Path(__file__).parent / "assets" / "clips"


@dataclass
class Clip:
    """A bundled video. The JSON file of its name beside it holds any of `fps`, `query`, `at` ([[seconds, text], ...]) and `gate`."""

    path: Path
    fps: float = 1.0
    query: str | None = None
    at: list[tuple[float, str]] = field(default_factory=list)
    gate: dict = field(default_factory=dict)


def demo_clip():
    """The first bundled clip by name. Raises VideoError when the package holds none."""
    path = min(CLIPS.glob("*.mp4"), default=None)
    if path is None:
        raise VideoError(CLIPS, "no clip is bundled here; install the package again")
    beside = path.with_suffix(".json")
    clip = Clip(path, **json.loads(beside.read_text(encoding="utf-8"))) if beside.is_file() else Clip(path)
    clip.at = [(seconds, text) for seconds, text in clip.at]
    return clip
