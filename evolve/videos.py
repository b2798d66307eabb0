"""The pool of videos: which files there are, and their frames as the engine shows them."""

from pathlib import Path

from ..engine.errors import VideoError
from ..engine.video import open_source

ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")


def find_videos(folder):
    """Rows {"video": path below `folder`} of all videos in it, sorted. Raises VideoError if there is none."""
    folder = Path(folder)
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)
    if not found:
        raise VideoError(folder, f"holds no video; {' '.join(ENDINGS)} are looked for")
    return [{"video": name} for name in found]


def read_frames(path, fps):
    """All frames of a video at `fps`: ([uint8 (H, W, 3)], [seconds]). Raises VideoError."""
    with open_source(path, fps=fps) as source:
        frames = list(source)
    if not frames:
        raise VideoError(path, "holds no frame")
    return [frame.pixels for frame in frames], [frame.time for frame in frames]
