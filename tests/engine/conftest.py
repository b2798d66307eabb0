"""Films whose pictures say their number, a reader that counts, a double of DALI; engines that talk, for submitted frames."""

import io
import threading
import time
from contextlib import contextmanager
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from evostreaming.engine.gate import Gate
from evostreaming.engine.video_source import Picture

BITS = 8
# Pictures out of order, open groups of pictures, containers with and without an index: (codec, suffix of the file, options).
ENCODINGS = {
    "h264": ("libx264", "mp4", {"bf": "3", "g": "12"}),
    "h264 open-gop": ("libx264", "mkv", {"bf": "3", "g": "12", "x264-params": "open-gop=1"}),
    "h264 ts": ("libx264", "ts", {"bf": "2", "g": "12"}),
    "hevc": ("libx265", "mp4", {"x265-params": "bframes=4:keyint=12:open-gop=1:log-level=none"}),
    "vp9": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}),
    "mpeg4 avi": ("mpeg4", "avi", {"bf": "2"}),
    "mpeg4": ("mpeg4", "mp4", {}),
}


def barcode(number, width=64, height=48):
    """`number` as eight vertical bars, black or white, the highest bit on the left."""
    bits = [(number >> (BITS - 1 - i)) & 1 for i in range(BITS)]
    row = np.repeat(np.array(bits, np.uint8) * 255, width // BITS)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(pixels):
    bars = pixels.float().mean(dim=(0, 2)).view(BITS, -1).mean(dim=1) > 128
    return sum(int(bar) << (BITS - 1 - i) for i, bar in enumerate(bars))


def write(path, pictures, pts=None, codec="libx264", rate=30, time_base=None, options=None, turn=None, pix_fmt="yuv420p"):
    """Encode `pictures`, shown at `pts` (counts of `time_base`; default: frame i at i / rate)."""
    import av  # here: the machines that run the GPU tests have none

    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if time_base:
            stream.codec_context.time_base = stream.time_base = time_base
        if turn:
            stream.set_display_rotation(*turn)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = (i if pts is None else pts[i]), time_base or Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="session")
def film():
    """`picture(number)`, `number(pixels)` and `write(path, pictures, ...)`."""
    return SimpleNamespace(picture=barcode, number=number_of, write=write)


@pytest.fixture(params=list(ENCODINGS))
def encoding(request):
    """(codec, suffix of the file, options) for `film.write`; a test that wants some of them names them."""
    return ENCODINGS[request.param]


@pytest.fixture
def changing(tmp_path):
    """A film of ten pictures of 64 x 48 and ten of 32 x 80, 25 a second."""
    import av

    path = tmp_path / "change.ts"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for part, (width, height) in enumerate([(64, 48), (32, 80)]):
            encoder = av.CodecContext.create("libx264", "w")
            encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuv420p"
            encoder.time_base, encoder.options = Fraction(1, 25), {"bf": "0"}
            for i in range(10):
                frame = av.VideoFrame.from_ndarray(barcode(part * 10 + i, width, height), format="rgb24")
                frame.pts = part * 10 + i
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    container.mux(packet)
            for packet in encoder.encode():
                packet.stream = stream
                container.mux(packet)
    return path


@pytest.fixture(autouse=True)
def on_the_cpu(request, monkeypatch):
    """What is not marked `gpu` is tested on the CPU, also where "auto" would take a GPU."""
    if "gpu" not in request.keywords:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def pool():
    """Two threads that decode for many sources."""
    from evostreaming.engine.video_pool import DecodePool  # here: it needs av

    with DecodePool(workers=2) as pool:
        yield pool


@pytest.fixture
def make_talker(make_engine, golden):
    """make_talker(**options) -> an engine that replies on a stream's first frame and on every third behind a reply; closed in the end."""
    made = []

    def make(**options):
        made.append(make_engine(golden("qwen2_5_vl"), **({"gate": Gate("softmax", 0.0, refractory=2)} | options)))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


class Counted:
    """A reader of ten pictures a second that counts how far it was pulled; it may fail at the end."""

    codec, width, height, rotation, fps, frames = "none", 4, 4, 0, 10.0, None

    def __init__(self, length=1000, error=None, live=False, pause=0.0):
        self.source, self.length, self.duration = f"counted {length}", length, length / 10
        self.error, self.live, self.pause = error, live, pause
        self.pulled, self.closed, self.stopped = 0, False, threading.Event()

    def pictures(self, start, end, rate=None):
        try:
            for i in range(self.length):
                self.pulled += 1
                time.sleep(self.pause)
                yield Picture(Fraction(i, 10), i, lambda i=i: torch.full((4, 4, 3), i % 256, dtype=torch.uint8))
            if self.error:
                raise self.error
        finally:
            self.stopped.set()

    def close(self):
        self.closed = True


@pytest.fixture(scope="session")
def counted():
    """counted(length, error, live, pause) -> a reader without a file."""
    return Counted


class Double:
    """Stands for a pipeline of DALI: decodes each small file by itself, as DALI does, with PyAV."""

    files, closed = 0, 0

    @classmethod
    @contextmanager
    def lent(cls, device):
        yield cls()

    def close(self):
        Double.closed += 1

    def apart(self, function, *arguments):
        return function(*arguments)

    def sequences(self, data, count):
        import av

        from evostreaming.engine.video_dali_pipeline import SEQUENCE

        Double.files += 1
        with av.open(io.BytesIO(data)) as container:
            frames = [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
        assert len(frames) == count, "every picture of the file is one that was sent"
        yield from torch.stack(frames).split(SEQUENCE)


@pytest.fixture
def double(monkeypatch):
    """`Double`, which decodes in place of DALI however short a file is."""
    from evostreaming.engine import video_dali

    Double.files = Double.closed = 0
    monkeypatch.setattr(video_dali, "DaliPipeline", Double)
    monkeypatch.setattr(video_dali, "SHORT", 0)
    monkeypatch.setattr(video_dali, "colors_of", lambda file, device: ())  # the double converts colors as PyAV does
    return Double


def wait_until_settled(reading, expected, seconds=20.0):
    """Wait until `reading()` is what is expected, and see that it stays so."""
    deadline = time.monotonic() + seconds
    while reading() != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.15)
    assert reading() == expected


@pytest.fixture(scope="session")
def settles():
    """settles(reading, expected, seconds): waits until `reading()` is what is expected, and sees that it stays so."""
    return wait_until_settled
