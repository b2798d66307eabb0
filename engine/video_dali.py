"""A video file decoded by DALI: on the GPU's own engines, or on the CPU for the codecs that DALI has there.

The container is read here, without decoding: its packets say which picture stands when. Those a plan needs go to DALI as small Matroska
files of consecutive frames, so that variable rates, edit lists, key frames to jump to and odd containers are no matter of the decoder's.
"""

import os
import threading
import warnings
from fractions import Fraction
from functools import partial
from importlib.util import find_spec

import av
import numpy as np

from ..kernels.recolor import recolor
from .video_colors import PLAIN, upright
from .video_dali_colors import BT601, BT709, colors_of
from .video_dali_pipeline import DaliPipeline, decode_stream, done_apart
from .video_feed import Damaged, planned_packets
from .video_nvdec import capabilities
from .video_plan import make_plan
from .video_source import Picture

FIRST_BYTES = 16 << 20  # of packets in the first small file of a video, up to the next key frame: it is soon made
CHUNK_BYTES = 64 << 20  # in those behind it: each takes DALI up to a second to begin, while others decode
SHORT = 100e6  # pixels that a CPU core decodes in half a second, before the first pipeline would have begun
TICK = Fraction(1, 25)  # between two frames of a small file
MOST_BYTES = 256 << 20  # without a key frame; a file may have a single one
FEEDING = threading.Lock()  # small files are made one after the other, for the reason why files are indexed so
CPU_CODECS = {"vp8", "vp9", "mjpeg"}
# AV1 and some MPEG-2 files show pictures again that they stored before; DALI, which pairs pictures with packets, would lose count.
GPU_CODECS = {"h264", "hevc", "vp8", "vp9", "mpeg4"}


def installed():
    """Whether DALI can be imported."""
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


def refusal(file, device):
    """Why DALI cannot decode `file` (a VideoFile) on `device`, in words, or None."""
    if not installed():
        return "DALI is not installed; pip install 'evostreaming[dali]'"
    if file.pixel_format not in PLAIN:
        return f"its pixels are {file.pixel_format}; 8-bit 4:2:0 is decoded there"
    if file.stated_size != file.stored_size:
        return "its pictures are of another size than its header says"  # for which DALI makes room
    if file.interlaced:
        return "it is interlaced; progressive video is decoded there"
    if file.matrix not in (BT709, *BT601):
        return f"its color matrix is number {file.matrix} of H.273; BT.601 and BT.709 are decoded there"
    codec, codecs = file.codec, CPU_CODECS if device.type == "cpu" else GPU_CODECS
    if codec not in codecs:
        return f"its codec is {codec}; {', '.join(sorted(codecs))} are decoded there"
    if device.type == "cpu":
        return None
    if file.full_range and codec not in ("h264", "hevc"):
        return f"it is {codec} whose black is 0; that is known of H.264 and HEVC there"
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

    patient: DALI decodes everything, from when the first pipeline is built; else PyAV decodes until then, and what is short to its end.
    """

    def __init__(self, file, device, patient=True):
        self.file, self.device, self._patient = file, device, patient

    def __getattr__(self, name):
        return getattr(self.file, name)

    def pictures(self, start, end, rate=None):
        last = None
        plan = self.file.plan(start, end, rate)
        if plan is not None and plan.index.steady:
            try:
                if not self._patient and sum(plan.feed) * self.width * self.height < SHORT:
                    yield from self._by_pyav(start, end, rate)
                    return
                if not self._patient and not DaliPipeline.ready(self.device):
                    last = yield from self._until_ready(start, end, rate)
                    if last is None:
                        return
                    plan = make_plan(plan.index, self.origin, self.base, rate, last, end)
                for picture in self._decode(plan):
                    if last is None or picture.time > last:
                        last = picture.time
                        yield picture
                return
            except Damaged:
                pass
        # Damage, odd time stamps and what DALI gives up on: PyAV knows what to do, from the last good picture on.
        for picture in self._by_pyav(start if last is None else last, end, rate):
            if last is None or picture.time > last:
                yield picture

    def _until_ready(self, start, end, rate):
        """Pictures of PyAV while a pipeline is built; returns the time of the last one, or None when there are no more."""
        ordered = DaliPipeline.order(self.device)
        try:
            for picture in self._by_pyav(start, end, rate):
                yield picture
                if DaliPipeline.ready(self.device):
                    return picture.time
        finally:
            DaliPipeline.cancel(ordered, self.device)

    def _by_pyav(self, start, end, rate):
        for picture in self.file.pictures(start, end, rate):
            yield picture._replace(render=picture.render and partial(_moved, picture.render, self.device))

    def _decode(self, plan):
        """Yield the pictures of `plan` and, without its pixels, the last one. Raises Damaged where DALI fails or a picture is missing."""
        waiting = iter(plan.shown.items())
        pts, index = next(waiting, (None, None))
        black, colors = False, colors_of(self.file, self.device)
        with self.file.open() as container, DaliPipeline.lent(self.device) as pipeline:
            for data, order in self._small_files(container, plan):
                following, sequences = iter(order), pipeline.sequences(data, len(order))
                del data  # it is large, and DALI has its own
                for sequence in sequences:
                    wanted = []
                    for place, stored in zip(range(len(sequence)), following):
                        if stored == pts:
                            wanted.append((place, pts, index))
                            pts, index = next(waiting, (None, None))
                    if not wanted:
                        continue
                    places = [place for place, _, _ in wanted]
                    pixels, peaks = pipeline.apart(_finished, sequence, places, self.turn, colors)
                    for (_, shown, number), frame, peak in zip(wanted, pixels, peaks.tolist()):
                        time = (shown - self.origin) * self.base
                        # What it cannot decode DALI gives as black, without a word.
                        was_black, black = black, peak == 0
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

    def _small_files(self, container, plan):
        """Iterate over (a small file, the pts of its pictures in the order of presentation)."""
        chunks = self._chunks(planned_packets(self.file, container, plan), plan)
        return iter(partial(_next_small_file, chunks, self.file.video_of(container)), None)

    def _chunks(self, packets, plan):
        """Lists of (packet, pts), each from a key frame on. A key frame with pictures in front of it ends one list and begins the next."""
        chunk, size, following, border, limit = [], 0, [], None, FIRST_BYTES
        for place, packet in packets:
            if border is not None and packet.pts > border:
                yield chunk
                chunk, size, border, limit = following, 0, None, CHUNK_BYTES
            if chunk and place in plan.jumps and not plan.index.restart[place]:
                yield chunk
                chunk, size, limit = [], 0, CHUNK_BYTES
            if border is None and size > limit and plan.index.key[place]:
                following, border = [(packet, packet.pts)], packet.pts
            chunk.append((packet, packet.pts))
            size += packet.size
            if size > MOST_BYTES:
                warnings.warn(f"a video is decoded on the CPU: {size >> 20} MB of it are without a key frame", stacklevel=2)
                raise Damaged
        if chunk:
            yield chunk


def _next_small_file(chunks, video):
    with FEEDING:
        chunk = next(chunks, None)
        if chunk is None:
            return None
        order = sorted(pts for _, pts in chunk)
        data = _small_file(chunk, order, video)
        chunk.clear()  # `_chunks` holds the list, and so its packets, until the next one is made
        return data, order


def _small_file(chunk, order, video):
    """Matroska file of the packets, uint8 (bytes,), frame i of the order of presentation at 40 i ms."""
    rank = {pts: place for place, pts in enumerate(order)}
    delay = max(place - rank[pts] for place, (_, pts) in enumerate(chunk))
    # A file in memory: into an object of Python's FFmpeg would write with Python's lock held.
    with open(os.memfd_create("small file"), "rb") as data:
        name = f"/proc/self/fd/{data.fileno()}"
        with av.open(f"file:{name}", "w", format="matroska") as container:
            stream = container.add_stream_from_template(video, opaque=True)
            for place, (packet, pts) in enumerate(chunk):
                packet.stream, packet.time_base, packet.duration = stream, TICK, 1
                packet.pts, packet.dts = rank[pts], place - delay
                container.mux(packet)
        return np.fromfile(data, np.uint8)


def _finished(sequence, places, turn, colors):
    """([pixels], largest value of each) of the frames at `places` of a sequence, in the colors that their file says, upright, and in
    memory of their own: DALI's may be written again, and goes with its pipeline. Few operations: each passes Python's lock on."""
    frames, peaks = recolor(sequence if len(places) == len(sequence) else sequence[places], *colors)
    return upright(frames, turn).contiguous().unbind(), peaks.to("cpu", non_blocking=True)


def _given(pixels):
    return pixels


def _moved(render, device):
    pixels = render()
    return pixels if device.type == "cpu" else done_apart(decode_stream(device), partial(pixels.to, device, non_blocking=True))
