"""Video in: one call opens a file, a folder of images, a camera or a network address as a source of frames."""

import re
import warnings
from pathlib import Path

import torch

from . import video_dali
from .errors import ArgumentError, VideoError
from .video_file import VideoFile
from .video_images import ImageFolder
from .video_live import LiveVideo, camera
from .video_nvdec import capabilities
from .video_push import PushSource
from .video_source import Frame, FrameSource

__all__ = ["Frame", "FrameSource", "PushSource", "open_source", "probe"]


DECODERS = ("auto", "dali", "pyav")


def open_source(source, fps=None, *, start=0.0, end=None, queue=8, stream=0, decoder="auto", device=None, pool=None):
    """Open `source` and start decoding ahead of the consumer.

    source: path of a video file; path of a folder of images, sorted naturally, `fps` (1 when None) images a second; a camera as an int,
        "camera:0" or "/dev/video0"; an address "rtsp://…", "http://…" or "https://…".
    fps: None delivers every frame at its own time. A number delivers, at each tick k / fps, the last frame whose time is not after the
        tick, from the first tick not before `start` to the last one not after the last frame. Time is presentation time in seconds after
        the first frame of the video, so tick 0 always has a frame.
    start, end: seconds; frames (or ticks) with start <= time < end are delivered. Live sources have no start but now.
    queue: how many frames may wait; decoding pauses while they do. In live sources the newest frame wins and waits alone.
    stream: which video stream, counted among the video streams.
    decoder: of video files. "pyav" decodes on the CPU; "dali" on `device` (by default the current GPU, the CPU where there is none), where
        the frames stay; "auto" takes DALI where it is installed and `device` is a GPU that decodes this file, else PyAV.
    pool: the `DecodePool` whose threads decode, of which many sources share a few; `DecodePool.open` gives it.

    Raises VideoError when the source cannot be opened or holds no picture; iteration raises it after the last good frame of a source that
    is damaged, ends before its header says or loses its connection. Raises ArgumentError for `fps`, `start`, `end`, `queue` or `decoder`
    out of range.
    """
    if _is_folder(source):
        return FrameSource(ImageFolder(source, fps), None, start, end, queue, pool)
    if decoder not in DECODERS:
        raise ArgumentError(f"decoder={decoder!r}: one of {', '.join(DECODERS)} is accepted")
    reader = _reader(source, stream, cores=pool and pool.cores_each)
    if decoder != "pyav" and isinstance(reader, VideoFile):
        reader = _on_device(reader, decoder, torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    return FrameSource(reader, fps, start, end, queue, pool)


def probe(source, stream=0):
    """Describe `source` without reading it through: codec, width, height (as displayed), rotation (degrees clockwise to be upright), fps,
    duration (seconds) and frames; the last three are None where unknown. Raises VideoError as `open_source` does."""
    reader = ImageFolder(source) if _is_folder(source) else _reader(source, stream)
    try:
        return {name: getattr(reader, name) for name in ("codec", "width", "height", "rotation", "fps", "duration", "frames")}
    finally:
        reader.close()


def where_decoded(codecs):
    """{codec: where `decoder="auto"` decodes its 8-bit 4:2:0 video on this machine, "cpu" or as in "cuda:0, 7 engines"}."""
    places = dict.fromkeys(codecs, "cpu")
    if torch.cuda.is_available() and video_dali.installed():
        device = f"cuda:{torch.cuda.current_device()}"
        for codec in video_dali.GPU_CODECS.intersection(codecs):
            if engine := capabilities(codec, device):
                places[codec] = f"{device}, {engine['engines']} engines"
    return places


def _on_device(file, decoder, device):
    """The reader of a VideoFile that `decoder` stands for. What a GPU with DALI cannot decode goes to PyAV, and it is said once."""
    if decoder == "auto" and (device.type != "cuda" or not video_dali.installed()):
        return file
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    reason = video_dali.refusal(file, device)
    if reason is None:
        return video_dali.DaliFile(file, device, patient=decoder == "dali")
    if decoder == "dali":
        raise VideoError(file.source, f"cannot be decoded by DALI on {device}: {reason}")
    warnings.warn(f"a video is decoded on the CPU: {reason}", stacklevel=3)
    return file


def _is_folder(source):
    return isinstance(source, str | Path) and "://" not in str(source) and Path(source).is_dir()


def _reader(source, stream, cores=None):
    if isinstance(source, bool) or not isinstance(source, str | Path | int):
        raise TypeError(f"source is a {type(source).__name__}: a path, an address or the number of a camera is accepted")
    number = re.fullmatch(r"(?:camera:|/dev/video)?(\d+)" if isinstance(source, int) else r"(?:camera:|/dev/video)(\d+)", str(source))
    if number:
        return camera(int(number[1]), stream)
    scheme = re.match(r"(\w+)://", str(source))
    if not scheme:
        return VideoFile(source, stream, cores=cores)
    if scheme[1].lower() in ("rtsp", "rtsps"):
        return LiveVideo(source, stream=stream)
    if scheme[1].lower() not in ("http", "https"):
        raise VideoError(source, f"{scheme[1]}:// is not read; rtsp://, http://, https://, a path or a camera number is accepted")
    reader = LiveVideo(source, stream=stream)
    if reader.duration is None:
        return reader
    # An address that states a duration is a recording: nothing of it may be dropped, and the connection resumes where it broke.
    reader.close()
    return VideoFile(source, stream, over_network=True, cores=cores)
