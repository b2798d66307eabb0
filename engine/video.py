"""Video in: one call opens a file, a folder of images, a camera or a network address as a source of frames."""

import re
from pathlib import Path

from .errors import VideoError
from .video_file import VideoFile
from .video_images import ImageFolder
from .video_live import LiveVideo, camera
from .video_source import Frame, FrameSource

__all__ = ["Frame", "FrameSource", "open_source", "probe"]


def open_source(source, fps=None, *, start=0.0, end=None, queue=8, stream=0):
    """Open `source` and start decoding ahead of the consumer.

    source: path of a video file; path of a folder of images, sorted naturally, `fps` (1 when None) images a second; a camera as an int,
        "camera:0" or "/dev/video0"; an address "rtsp://…", "http://…" or "https://…".
    fps: None delivers every frame at its own time. A number delivers, at each tick k / fps, the last frame whose time is not after the
        tick, from the first tick not before `start` to the last one not after the last frame. Time is presentation time in seconds after
        the first frame of the video, so tick 0 always has a frame.
    start, end: seconds; frames (or ticks) with start <= time < end are delivered. Live sources have no start but now.
    queue: how many frames may wait; decoding pauses while they do. In live sources the newest frame wins and waits alone.
    stream: which video stream, counted among the video streams.

    Raises VideoError when the source cannot be opened or holds no picture; iteration raises it after the last good frame of a source that
    is damaged, ends before its header says or loses its connection. Raises ValueError for `fps`, `start`, `end` or `queue` out of range.
    """
    if _is_folder(source):
        return FrameSource(ImageFolder(source, fps), None, start, end, queue)
    return FrameSource(_reader(source, stream), fps, start, end, queue)


def probe(source, stream=0):
    """Describe `source` without reading it through: codec, width, height (as displayed), rotation (degrees clockwise to be upright), fps,
    duration (seconds) and frames; the last three are None where unknown. Raises VideoError as `open_source` does."""
    reader = ImageFolder(source) if _is_folder(source) else _reader(source, stream)
    try:
        return {name: getattr(reader, name) for name in ("codec", "width", "height", "rotation", "fps", "duration", "frames")}
    finally:
        reader.close()


def _is_folder(source):
    return isinstance(source, str | Path) and "://" not in str(source) and Path(source).is_dir()


def _reader(source, stream):
    if isinstance(source, bool) or not isinstance(source, str | Path | int):
        raise TypeError(f"source is a {type(source).__name__}: a path, an address or the number of a camera is accepted")
    number = re.fullmatch(r"(?:camera:|/dev/video)?(\d+)" if isinstance(source, int) else r"(?:camera:|/dev/video)(\d+)", str(source))
    if number:
        return camera(int(number[1]), stream)
    scheme = re.match(r"(\w+)://", str(source))
    if not scheme:
        return VideoFile(source, stream)
    if scheme[1].lower() in ("rtsp", "rtsps"):
        return LiveVideo(source, stream=stream)
    if scheme[1].lower() not in ("http", "https"):
        raise VideoError(source, f"{scheme[1]}:// is not read; rtsp://, http://, https://, a path or a camera number is accepted")
    reader = LiveVideo(source, stream=stream)
    if reader.duration is None:
        return reader
    # An address that states a duration is a recording: nothing of it may be dropped, and the connection resumes where it broke.
    reader.close()
    return VideoFile(source, stream, over_network=True)
