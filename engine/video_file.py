"""A video file (or a recording behind an address) read with PyAV: one stream, packet by packet, damage reported at the end."""

import heapq
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch

from .errors import VideoError
from .video_source import Picture

# Containers whose header states how long each stream is; elsewhere the duration is a guess from what is there.
STATES_DURATION = {"mov", "avi", "matroska", "flv"}
NETWORK_OPTIONS = {"reconnect": "1", "reconnect_on_network_error": "1", "reconnect_delay_max": "8", "reconnect_max_retries": "6"}
JUMP = 1  # seconds back: more is not a wrong time stamp but a new recording appended to the file


class VideoFile:
    """Reader over one video stream of a file. Raises VideoError when it is missing, not a video, or no picture of it can be decoded."""

    live = False

    def __init__(self, source, stream=0, over_network=False):
        self.source, self._stream = str(source), stream
        self._address = self.source if over_network else f"file:{source}"  # "file:" keeps names with a colon from being taken for protocols
        self._network = {"options": NETWORK_OPTIONS, "timeout": 20.0} if over_network else {}
        if not over_network:
            _check_file(Path(source))
        with self._open() as container:
            video = select_stream(container, self.source, stream)
            first = _first_frame(container, video, self.source)
            self.codec, self.base = video.codec_context.name, video.time_base
            self.origin = 0 if first.pts is None else first.pts
            self.rotation = -first.rotation % 360
            self.height, self.width = upright_rgb(first).shape[:2]
            rate = video.average_rate or video.guessed_rate
            self.fps, self._period = (float(rate), 1 / rate) if rate else (None, Fraction(1, 25))
            self.frames = video.frames or None
            self._promised = _stated_duration(container, video, self.origin * self.base)
            known = self._promised or (container.duration and Fraction(container.duration, av.time_base))
            self.duration = float(known) if known else None

    def pictures(self, start, end):
        last = None
        try:
            for picture in self._decode(start, end, "AUTO"):
                last = picture.time
                yield picture
            return
        except _Damaged:
            pass
        # Decoding on several threads reports an error packets late and loses the last pictures of a cut file. What is left after the last
        # good picture is read again on one thread, which tells exactly what failed.
        yield from self._decode(start if last is None else last, end, "NONE", after=last)

    def close(self):
        """The thread that iterates `pictures` closes what it opened."""

    def _open(self):
        try:
            return av.open(self._address, **self._network)
        except (av.FFmpegError, OSError) as error:
            hint = ": not a video, or its index is missing (a recording that was cut off)" if isinstance(error, av.InvalidDataError) else ""
            raise VideoError(self.source, f"cannot be opened, {reason_of(error)}{hint}") from error

    def _decode(self, start, end, threads, after=None):
        tally = _Tally()
        last, shift, estimate = after, 0, self.origin
        with self._open() as container:
            video = select_stream(container, self.source, self._stream)
            video.thread_type = threads
            skip_to = self.origin + int(start / self.base)
            for packet in _from_key_frame(tally.watch(container, video), skip_to):
                tally.fed += packet is not None and not packet.is_discard
                try:
                    frames = video.decode(packet)
                except av.FFmpegError as error:
                    if threads != "NONE":
                        raise _Damaged from error
                    tally.failed.append(packet)
                    continue
                for frame in frames:
                    tally.decoded += 1
                    pts = estimate if frame.pts is None else frame.pts
                    estimate = pts + int(self._period / self.base)
                    time = (pts - self.origin) * self.base + shift
                    if last is not None and time <= last:
                        if after is not None or tally.failed:
                            continue  # seen already, or a damaged stream that shows its pictures out of order
                        if time < last - JUMP:
                            shift += last + self._period - time
                            time = last + self._period
                        time = max(time, last)
                    last = time
                    yield Picture(time, tally.rank(pts), partial(self._render, frame, time))
                    if end is not None and time >= end:
                        tally.report(self, last)
                        return
            if threads != "NONE" and (tally.broken or tally.decoded < tally.fed):
                raise _Damaged
            tally.report(self, last, self._missing(tally))

    def _missing(self, tally):
        """What the header promises beyond the packets that are there, in words."""
        if self._promised is None or tally.reached is None or (self.frames and tally.packets >= self.frames):
            return None
        reached = (tally.reached - self.origin) * self.base
        # The last picture may have no duration of its own: then it may stand as long as the longest before it.
        if reached + tally.longest_step * self.base + self._period >= self._promised:
            return None
        counts = f", {tally.packets} of {self.frames} frames" if self.frames else ""
        return f"ends at {float(reached):.2f} s of {float(self._promised):.2f} s{counts}: the file was cut off"

    def _render(self, frame, time):
        try:
            return upright_rgb(frame)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(self.source, f"a {frame.format.name} picture cannot be turned into RGB, {error}", float(time)) from error


class _Damaged(Exception):
    """Decoding on several threads met damage."""


class _Tally:
    """What one reading of the file met: packets, failures, and how pictures rank in the order of presentation."""

    def __init__(self):
        self.packets = self.fed = self.decoded = 0
        self.reached, self.longest_step = None, 0
        self.failed, self.broken = [], None
        self._ahead, self._rank, self._latest = [], 0, None

    def watch(self, container, video):
        """Yield the packets of the stream and, last, None for the decoder to give what it holds."""
        packets = container.demux(video)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except (av.FFmpegError, OSError) as error:
                self.broken = error
                break
            if packet.size == 0:
                break
            if not packet.is_discard:
                self._count(packet)
            yield packet
        yield None

    def _count(self, packet):
        self.packets += 1
        pts = packet.dts if packet.pts is None else packet.pts
        if pts is None:
            return
        heapq.heappush(self._ahead, pts)
        if self._latest is not None and pts > self._latest:
            self.longest_step = max(self.longest_step, pts - self._latest)
        self._latest = pts if self._latest is None else max(pts, self._latest)
        self.reached = max(self._latest if self.reached is None else self.reached, pts + (packet.duration or 0))

    def rank(self, pts):
        """How many different times before `pts` the packets so far have: packets that fail or are skipped keep their place."""
        while self._ahead and self._ahead[0] < pts:
            passed = heapq.heappop(self._ahead)
            self._rank += not self._ahead or self._ahead[0] != passed
        return self._rank

    def report(self, reader, last, missing=None):
        """Raise the one VideoError that says everything that went wrong, if anything did."""
        reasons = []
        if self.failed:
            times = [float((p.pts - reader.origin) * reader.base) for p in self.failed if p is not None and p.pts is not None]
            where = f", from {min(times):.2f} s to {max(times):.2f} s" if times else ""
            reasons.append(f"{len(self.failed)} of {self.packets} packets cannot be decoded{where}")
        if self.broken:
            reasons.append(f"the container cannot be read on, {reason_of(self.broken)}")
        if missing:
            reasons.append(missing)
        if reasons:
            raise VideoError(reader.source, "; ".join(reasons), None if last is None else float(last))


def _from_key_frame(packets, pts):
    """Drop what is before the last key frame not after `pts`: no picture from there on needs it."""
    held, seeking = [], True
    for packet in packets:
        if seeking and packet is not None and not (packet.is_keyframe and held and packet.pts is not None):
            held.append(packet)
        elif seeking and packet is not None and held[0].pts is not None and held[0].pts <= packet.pts <= pts:
            held = [packet]
        else:
            yield from held
            held, seeking = [], False
            yield packet


def select_stream(container, source, stream):
    """The video stream number `stream`; cover pictures of sound files do not count."""
    videos = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not videos:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoError(source, f"there is no video stream in it, only {kinds}")
    if not 0 <= stream < len(videos):
        raise VideoError(source, f"it has {len(videos)} video stream(s), counted from 0; number {stream} was asked for")
    return videos[stream]


def upright_rgb(frame):
    """uint8 (H, W, 3) RGB tensor of a decoded frame, turned and mirrored as its display matrix says."""
    pixels = frame.to_ndarray(format="rgb24")
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        # x' = a x + c y and y' = b x + d y (ISO 14496-12, 8.5.2); the nearest quarter turn is taken.
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
        if abs(a) + abs(d) < abs(b) + abs(c):
            pixels, a, d = pixels.transpose(1, 0, 2), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return torch.from_numpy(np.ascontiguousarray(pixels))


def reason_of(error):
    """The words of an FFmpeg error without its number and its file name."""
    return getattr(error, "strerror", None) or str(error)


def _check_file(path):
    if not path.exists():
        raise VideoError(path, "there is no such file")
    if path.is_file() and path.stat().st_size == 0:
        raise VideoError(path, "the file is empty")


def _first_frame(container, video, source):
    error = None
    for packet in _Tally().watch(container, video):
        try:
            for frame in video.decode(packet):
                return frame
        except av.FFmpegError as caught:
            error = caught
    raise VideoError(source, f"no picture of it can be decoded{', ' + reason_of(error) if error else ''}")


def _stated_duration(container, video, origin):
    """Seconds from the first picture to the end that the header states for this very stream, or None."""
    formats = container.format.name.split(",")
    if not STATES_DURATION.intersection(formats):
        return None
    if "avi" in formats:  # FFmpeg shortens the duration of a cut file by itself, the count of frames stays the header's
        return video.frames / video.average_rate if video.frames and video.average_rate else None
    if video.duration:
        return video.duration * video.time_base
    if "DURATION" in video.metadata:  # Matroska: the time of the end, written as 00:00:13.013000000
        hours, minutes, seconds = video.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds) - origin
    if len(container.streams) == 1 and container.duration:
        return Fraction(container.duration, av.time_base) - origin
    return None
