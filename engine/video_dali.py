"""A video file decoded by DALI: on the GPU's own engines, or on the CPU for the codecs that DALI has there.

The container is read here, without decoding: its packets say which picture stands when. Those a plan needs go to DALI as small Matroska
files of consecutive frames, so that variable rates, edit lists, key frames to jump to and odd containers are no matter of the decoder's.
"""

import io
import threading
import warnings
from collections import Counter
from contextlib import contextmanager
from fractions import Fraction
from functools import cache, partial
from importlib.util import find_spec

import av
import numpy as np
import torch

from .video_colors import upright
from .video_file import Damaged, select_stream
from .video_nvdec import capabilities
from .video_source import Picture

SEQUENCE = 8  # frames a run of a pipeline gives
MOST = 64  # pipelines on a GPU: each is a session of its decoder and holds some tens of pictures of the size of its video
AT_ONCE = 16 << 20  # values of pixels that change their colors together: as many floats are needed twice
LEAST_SHARE = 0.0  # of a file's packets: plans that need a smaller one are left to PyAV where nobody asked for DALI
CHUNK_BYTES = 16 << 20  # of packets in one small file, up to the next key frame
MOST_BYTES = 256 << 20  # without a key frame; a file may have a single one
CPU_CODECS = {"vp8", "vp9", "mjpeg"}
# AV1 and some MPEG-2 files show pictures again that they stored before; DALI, which pairs pictures with packets, would lose count.
GPU_CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4", "mjpeg"}
# Numbers of color matrices (ITU-T H.273). DALI converts every video as BT.601, which is what those that say nothing get.
BT709, BT601 = 1, (2, 5, 6)


def installed():
    """Whether DALI can be imported."""
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


def refusal(file, device):
    """Why DALI cannot decode `file` (a VideoFile) on `device`, in words, or None."""
    if not installed():
        return "DALI is not installed; pip install 'evostreaming[dali]'"
    if file.pixel_format not in ("yuv420p", "yuvj420p"):
        return f"its pixels are {file.pixel_format}; 8-bit 4:2:0 is decoded there"
    if file.interlaced:
        return "it is interlaced; progressive video is decoded there"
    if file.matrix not in (BT709, *BT601):
        return f"its color matrix is number {file.matrix} of H.273; BT.601 and BT.709 are decoded there"
    codec, codecs = file.codec, CPU_CODECS if device.type == "cpu" else GPU_CODECS
    if codec not in codecs:
        return f"its codec is {codec}; {', '.join(sorted(codecs))} are decoded there"
    if device.type == "cpu":
        return None
    engine = capabilities(codec, str(device))
    if engine is None:
        return f"its codec is {codec}, which this GPU does not decode"
    width, height = file.stored_size
    fits = all(low <= side <= high for low, side, high in zip(engine["min"], (width, height), engine["max"]))
    if width % 2 or height % 2 or not fits or -(-width // 16) * -(-height // 16) > engine["max_macroblocks"]:
        least, most = ("x".join(map(str, engine[side])) for side in ("min", "max"))
        return f"its size is {width}x{height}; even sizes from {least} to {most} are decoded there"
    return None


class DaliFile:
    """Reader with the attributes of `file`, a VideoFile; its pictures lie on `device` as uint8 (H, W, 3).

    least_share: plans that need a smaller share of the file's packets are read by PyAV.
    """

    def __init__(self, file, device, least_share=0.0):
        self.file, self.device, self._least_share = file, device, least_share

    def __getattr__(self, name):
        return getattr(self.file, name)

    def pictures(self, start, end, rate=None):
        last = None
        plan = self.file.plan(start, end, rate)
        if plan is not None and plan.index.steady and sum(plan.feed) >= self._least_share * plan.count:
            try:
                for picture in self._decode(plan):
                    last = picture.time
                    yield picture
                return
            except Damaged:
                pass
        # Damage, odd time stamps and what DALI gives up on: PyAV knows what to do, from the last good picture on.
        for picture in self.file.pictures(start if last is None else last, end, rate):
            if last is None or picture.time > last:
                yield picture._replace(render=picture.render and partial(_moved, picture.render, self.device))

    def _decode(self, plan):
        """Yield the pictures of `plan` and, without its pixels, the last one. Raises Damaged where DALI fails or a picture is missing."""
        waiting = iter(plan.shown.items())
        pts, index = next(waiting, (None, None))
        black = False
        with self.file.open() as container, _Pipeline.lent(self.device) as pipeline:
            video = select_stream(container, self.source, self.file.stream)
            for chunk in self._chunks(container.demux(video), plan):
                order = iter(sorted(pts for _, pts in chunk))
                for sequence in pipeline.sequences(_small_file(chunk, video), len(chunk)):
                    wanted = []
                    for place, stored in zip(range(len(sequence)), order):
                        if stored == pts:
                            wanted.append((place, pts, index))
                            pts, index = next(waiting, (None, None))
                    if not wanted:
                        continue
                    places = [place for place, _, _ in wanted]
                    pixels, dark = pipeline.apart(_finished, sequence, places, self.turn, self.matrix)
                    for (_, shown, number), frame, is_black in zip(wanted, pixels, dark):
                        time = (shown - self.origin) * self.base
                        # What it cannot decode DALI gives as black, without a word.
                        was_black, black = black, is_black
                        if black and not was_black and not self._really_black(time):
                            raise Damaged
                        yield Picture(time, number, partial(_given, frame))
        if pts is not None:
            raise Damaged
        if plan.last not in plan.shown:
            yield Picture((plan.last - self.origin) * self.base, None, None)

    def _really_black(self, time):
        picture = next((picture for picture in self.file.pictures(time, None) if picture.time >= time), None)
        return picture is not None and picture.time == time and bool(picture.render().float().mean() < 1)

    def _chunks(self, packets, plan):
        """Lists of (packet, pts), each from a key frame on. A key frame with pictures in front of it ends one list and begins the next."""
        chunk, size, following, border = [], 0, [], None
        for place, packet in zip(range(plan.stop), packets):
            self.file.decoded += plan.feed[place]
            self.file.skipped += not plan.feed[place]
            if not plan.feed[place]:
                continue
            if border is not None and packet.pts > border:
                yield chunk
                chunk, size, border = following, 0, None
            if chunk and place in plan.jumps and not plan.index.restart[place]:
                yield chunk
                chunk, size = [], 0
            if border is None and size > CHUNK_BYTES and plan.index.key[place]:
                following, border = [(packet, packet.pts)], packet.pts
            chunk.append((packet, packet.pts))
            size += packet.size
            if size > MOST_BYTES:
                warnings.warn(f"a video is decoded on the CPU: {size >> 20} MB of it are without a key frame", stacklevel=2)
                raise Damaged
        if chunk:
            yield chunk


class _Pipeline:
    """One DALI pipeline: small files in, their frames out. Each keeps one engine of the GPU busy."""

    _idle, _lent, _lock = {}, Counter(), threading.Lock()

    def __init__(self, device):
        from nvidia.dali import Pipeline, fn

        gpu = device.type == "cuda"
        # No run ahead: it would ask for frames of a file that was not fed yet. Others decode meanwhile.
        self._pipeline = Pipeline(1, 1, device.index if gpu else None, prefetch_queue_depth=1, exec_dynamic=True)
        with self._pipeline:
            video = fn.experimental.inputs.video(name="video", device="mixed" if gpu else "cpu", sequence_length=SEQUENCE)
            self._pipeline.set_outputs(video)
        self._pipeline.build()
        self._stream = _stream(device) if gpu else None

    @classmethod
    @contextmanager
    def lent(cls, device):
        """A pipeline that is free, or a new one. One that failed or was left in the middle of a file is not used again."""
        place, pipeline = str(device), None
        with cls._lock:
            idle = cls._idle.setdefault(place, [])
            if not idle and cls._lent[place] == MOST:
                warnings.warn(f"{MOST} videos are being decoded by DALI on {place}: further ones are decoded on the CPU", stacklevel=2)
                raise Damaged
            pipeline = idle.pop() if idle else None
            cls._lent[place] += 1
        try:
            pipeline = pipeline or cls(device)
            yield pipeline
            with cls._lock:
                idle.append(pipeline)
        except (RuntimeError, MemoryError) as error:
            warnings.warn(f"DALI gave up on a video, which is now decoded on the CPU: {_cause(error)}", stacklevel=2)
            raise Damaged from error
        finally:
            with cls._lock:
                cls._lent[place] -= 1

    def sequences(self, data, count):
        """Yield the `count` frames of a file in memory as uint8 tensors (n, H, W, 3), views of DALI's memory."""
        self._pipeline.feed_input("video", [np.frombuffer(data, np.uint8)])
        while count > 0:
            # Nothing is under way between two runs, so a reader may stop anywhere.
            (sequence,) = self._pipeline.run()
            frames = self.apart(torch.from_dlpack, sequence[0])
            count -= len(frames)
            yield frames

    def apart(self, function, *arguments):
        """What `function` returns, done when this returns; on a stream apart, so that it never queues behind a step of an engine."""
        if self._stream is None:
            return function(*arguments)
        with torch.cuda.stream(self._stream):
            result = function(*arguments)
        self._stream.synchronize()
        return result


def _small_file(chunk, video):
    """Matroska file of the packets, frame i of the order of presentation at 40 i ms."""
    rank = {pts: place for place, pts in enumerate(sorted(pts for _, pts in chunk))}
    delay = max(place - rank[pts] for place, (_, pts) in enumerate(chunk))
    data = io.BytesIO()
    with av.open(data, "w", format="matroska") as container:
        stream = container.add_stream_from_template(video, opaque=True)
        for place, (packet, pts) in enumerate(chunk):
            packet.stream, packet.time_base, packet.duration = stream, Fraction(1, 25), 1
            packet.pts, packet.dts = rank[pts], place - delay
            container.mux(packet)
    return data.getvalue()


def _cause(error):
    """The line of a DALI error that says what happened: it stands behind "encountered:"."""
    lines = [line for line in str(error).partition("encountered:")[2].splitlines() or str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _finished(sequence, places, turn, matrix):
    """([pixels], [whether it is black]) of the frames at `places` of a sequence, in the colors that their file says, upright."""
    frames = sequence if len(places) == len(sequence) else sequence[places]
    black = frames.flatten(1).amax(1) == 0
    if matrix == BT709:
        parts = frames.split(max(AT_ONCE // frames[0].numel(), 1))
        frames = [frame for part in parts for frame in _recolored(part)]
    return [upright(frame, turn).contiguous() for frame in frames], black.tolist()


def _recolored(frames):
    return (frames.float() @ _from_601(frames.device)).round_().clamp_(0, 255).to(torch.uint8)


def _given(pixels):
    return pixels


@cache
def _stream(device):
    # One for all: memory that a frame gave back on one stream is not there for another.
    return torch.cuda.Stream(device)


@cache
def _from_601(device):
    """(3, 3) that turns rows of RGB decoded with the matrix of BT.601 into what that of BT.709 gives."""
    to_601, to_709 = (
        torch.tensor(
            [[1, 0, 2 - 2 * r], [1, (2 * b - 2) * b / (1 - r - b), (2 * r - 2) * r / (1 - r - b)], [1, 2 - 2 * b, 0]], dtype=torch.float64
        )
        for r, b in ((0.299, 0.114), (0.2126, 0.0722))
    )
    return (to_709 @ to_601.inverse()).T.to(device, torch.float32)


def _moved(render, device):
    return render().to(device, non_blocking=True)
