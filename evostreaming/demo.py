"""What `evostreaming demo` shows: a clip, what to ask about it, and the adapter that the model taught itself."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from .engine.errors import VideoError
from .engine.locate import ADAPTERS, asset

CLIPS = Path(__file__).parent / "assets" / "clips"


@dataclass
class Clip:
    """A bundled video. The JSON file of its name beside it holds any of `fps`, `query`, `at` ([[seconds, text], ...]) and `gate`; `events`
    are what happens in it, from the file of its name that ends in .events.json."""

    path: Path
    fps: float = 1.0
    query: str | None = None
    at: list[tuple[float, str]] = field(default_factory=list)
    gate: dict = field(default_factory=dict)
    events: list[dict] = field(default_factory=list)


def demo_clip():
    """The first bundled clip by name. Raises VideoError when the package holds none."""
    path = min(CLIPS.glob("*.mp4"), default=None)
    if path is None:
        raise VideoError(CLIPS, "no clip is bundled here; install the package again")
    clip = Clip(path, **read(path.with_suffix(".json")), events=read(path.with_suffix(".events.json")).get("events", []))
    clip.at = [(seconds, text) for seconds, text in clip.at]
    return clip


def evolved():
    """Name of the built-in adapter, None where the package holds none."""
    return next((name for name in ADAPTERS if asset(name).is_dir()), None)


def read(file):
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
