"""Frames a second decoded and delivered: every decoder that can be imported here, on the same generated files.

A file is ten seconds of a moving test picture with grain (two in 4k), encoded with the settings that the encoder comes with and repeated
packet by packet. A row reads `files` of them side by side on as many threads as there are cores, to their ends or until `LIMIT` seconds are
over. The first value of each list is the base row's, every further value gives one row in which only that one differs.
"""

import json
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from importlib.util import find_spec
from itertools import count

import av
import torch

from evostreaming.engine import video_dali
from evostreaming.engine.errors import VideoError
from evostreaming.engine.video_pool import DecodePool

ENCODERS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1", "mpeg4": "mpeg4"}
OPTIONS = {
    "libx265": {"x265-params": "log-level=none"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"preset": "12"},
}
FPS, UNIT = 25, 250  # frames a second; frames that are encoded, then repeated
SECONDS = 60  # of video in a file
LIMIT = 10  # seconds for one decoder and row
PIPELINES = 16  # of DALI: each keeps one engine of the GPU busy for about half of the time
BT709 = 1  # as cameras write it


@dataclass(frozen=True)
class Row:
    codec: str
    height: int
    fps: float | None  # None: every frame
    files: int


def rows(codecs, heights, rates, files):
    """The base row of the first values, then one row for each further value."""
    base = Row(codecs[0], heights[0], rates[0], files[0])
    lists = {"codec": codecs, "height": heights, "fps": rates, "files": files}
    return [base, *(Row(**{**asdict(base), name: value}) for name, values in lists.items() for value in values[1:])]


def make_file(folder, codec, height, seconds, gop=None):
    """A file of `seconds`, at 16:9 and 25 frames a second, a key frame every `gop` pictures and nowhere else; made once a folder."""
    path = folder / f"{codec}-{height}p-{seconds}s{f'-{gop}' if gop else ''}.mp4"
    if path.exists():
        return path
    width, encoder, unit = height * 16 // 9 // 2 * 2, ENCODERS[codec], UNIT if height <= 1080 else UNIT // 5
    options = OPTIONS.get(encoder, {}) | ({"g": str(gop), "sc_threshold": "0"} if gop else {})
    codec_context = av.CodecContext.create(encoder, "w")
    codec_context.width, codec_context.height, codec_context.pix_fmt, codec_context.colorspace = width, height, "yuv420p", BT709
    codec_context.time_base, codec_context.framerate, codec_context.options = Fraction(1, FPS), Fraction(FPS), options
    picture = f"testsrc2=size={width}x{height}:rate={FPS},noise=alls=6:allf=t,format=yuv420p"
    packets = []
    with av.open(picture, format="lavfi") as source:
        for number, frame in zip(range(unit), source.decode(video=0)):
            frame.pts, frame.time_base, frame.pict_type, frame.colorspace = number, Fraction(1, FPS), 0, BT709
            packets += codec_context.encode(frame)
    packets += codec_context.encode()
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.colorspace = width, height, "yuv420p", BT709
        stored = [(bytes(packet), packet.pts, packet.dts, packet.is_keyframe) for packet in packets]
        for begin in range(0, seconds * FPS, unit):
            for data, pts, dts, key in stored:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.is_keyframe = pts + begin, dts + begin, key
                packet.stream, packet.time_base = stream, Fraction(1, FPS)
                container.mux(packet)
    return path


def pooled(decoder, device, workers=None):
    """Our sources in a pool; each reads on a thread of the bench, as an engine would take its frames."""

    def read(paths, fps, deadline):
        with DecodePool(workers) as pool, ThreadPoolExecutor(len(paths)) as consumers:

            def consume(path):
                with pool.open(path, fps, decoder=decoder, device=device) as source:
                    return sum(1 for _ in until(deadline, source))

            return sum(consumers.map(consume, paths))

    return read


def threaded(one):
    def read(paths, fps, deadline):
        with ThreadPoolExecutor(cores()) as threads:
            return sum(threads.map(lambda path: sum(1 for _ in until(deadline, one(path, fps))), paths))

    return read


def until(deadline, frames):
    for frame in frames:
        yield frame
        if time.perf_counter() > deadline:
            return


def plain_pyav(path, fps):
    """As most people write it: decode everything, turn into RGB what is wanted; on all cores, as PyAV's guide recommends."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for number, frame in enumerate(container.decode(video=0)):
            if wanted(number, fps):
                yield frame.to_ndarray(format="rgb24")


def opencv(path, fps):
    import cv2

    video = cv2.VideoCapture(str(path))
    for number in count():
        if not video.grab():
            return
        if wanted(number, fps):
            yield cv2.cvtColor(video.retrieve()[1], cv2.COLOR_BGR2RGB)


def torchcodec(path, fps):
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, dimension_order="NHWC")
    numbers = [number for number in range(decoder.metadata.num_frames) if wanted(number, fps)]
    for begin in range(0, len(numbers), 8):
        yield from decoder.get_frames_at(numbers[begin : begin + 8]).data


def wanted(number, fps):
    return fps is None or number % round(FPS / fps) == 0


def decoders(device):
    """{name: read(paths, fps) -> frames delivered} of what can run here."""
    found = {"EvoStreaming, PyAV": pooled("pyav", "cpu")}
    if video_dali.installed():
        found["EvoStreaming, DALI"] = pooled("dali", device, PIPELINES if torch.device(device).type == "cuda" else None)
    found["plain PyAV"] = threaded(plain_pyav)
    for name, read in (("cv2", opencv), ("torchcodec", torchcodec)):
        if find_spec(name):
            found["OpenCV" if name == "cv2" else name] = threaded(read)
    return found


def measure(read, paths, fps, limit):
    """Frames delivered by one reading of all `paths`, its seconds, and the seconds of CPU that it took."""
    read(paths, fps, time.perf_counter() + limit / 4)  # libraries, pipelines, memory and the file cache are warm then
    wall, cpu = time.perf_counter(), time.process_time()
    delivered = read(paths, fps, wall + limit)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return delivered, time.perf_counter() - wall, time.process_time() - cpu


def run(folder, table, seconds, device, say=print, limit=LIMIT):
    """Measure every row with every decoder; returns a list of dicts, written to `folder`/video.json after each row."""
    results = []
    for row in table:
        path = make_file(folder, row.codec, row.height, seconds)
        for name, read in decoders(device).items():
            result = {**asdict(row), "decoder": name}
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    delivered, wall, cpu = measure(read, [path] * row.files, row.fps, limit)
                watched = delivered / (row.fps or FPS)
                result |= {
                    "delivered": delivered,
                    "frames_per_s": round(delivered / wall, 1),
                    "video_s_per_s": round(watched / wall, 1),
                    "cpu_cores": round(cpu / wall, 2),
                    "cpu_ms_per_video_s": round(1e3 * cpu / watched, 2),
                }
            except (VideoError, RuntimeError) as error:
                result["error"] = str(error).strip().splitlines()[-1]
            results.append(result)
            say(line(result))
        (folder / "video.json").write_text(json.dumps({"seconds": seconds, "cores": cores(), "rows": results}, indent=1) + "\n")
    return results


def line(result):
    rate = "all frames" if result["fps"] is None else f"{result['fps']:g} fps"
    head = f"{result['codec']} {result['height']}p, {rate}, {result['files']} files, {result['decoder']}: "
    if "error" in result:
        return head + result["error"]
    return head + f"{result['frames_per_s']:,.0f} frames/s, {result['video_s_per_s']:,.0f} x real time, {result['cpu_cores']:.1f} cores"


def markdown(results):
    """One table of all rows."""
    lines = [
        "| codec | size | sampled at | files | decoder | frames/s | × real time | CPU cores | CPU ms a second of video |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        head = [
            result["codec"],
            f"{result['height']}p",
            "every frame" if result["fps"] is None else f"{result['fps']:g} fps",
            result["files"],
        ]
        names = ("frames_per_s", "video_s_per_s", "cpu_cores", "cpu_ms_per_video_s")
        cells = [result["error"], "", "", ""] if "error" in result else [f"{result[name]:,}" for name in names]
        lines.append("| " + " | ".join(map(str, [*head, result["decoder"], *cells])) + " |")
    return "\n".join(lines)


def cores():
    return len(os.sched_getaffinity(0))
