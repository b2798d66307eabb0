"""Cameras and network addresses read with PyAV: pictures as they come, connections that break are made again."""

import threading
import time
from fractions import Fraction
from functools import partial
from pathlib import Path

import av

from .errors import VideoError
from .video_colors import ToRgb
from .video_file import select_stream
from .video_packets import open_container, reason_of
from .video_source import Picture

CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 5.0  # seconds


class LiveVideo:
    """Reader over a live address. Raises VideoError at once when it cannot be opened.

    A connection that breaks later is made again up to `tries` times in a row, `wait` seconds after the break and then twice as long each
    time; the clock of the source runs on meanwhile.
    """

    live, frames = True, None

    def __init__(self, source, address=None, stream=0, format=None, tries=5, wait=0.5):
        self.source, self._address, self._stream = str(source), str(address or source), stream
        self._format, self._tries, self._wait = format, tries, wait
        self._closed, self._used = threading.Event(), threading.Lock()
        try:
            self._container, self._frames, self._first = self._connect()
        except (av.FFmpegError, OSError) as error:
            raise VideoError(self.source, f"cannot be opened, {reason_of(error)}") from error
        video = select_stream(self._container, self.source, stream)
        self.codec, self.rotation = video.codec_context.codec.canonical_name, -self._first.rotation % 360
        self._colors = ToRgb(source)
        self.height, self.width = self._colors(self._first).shape[:2]
        self.fps = float(video.average_rate) if video.average_rate else None
        self.duration = self._container.duration / av.time_base if self._container.duration else None

    def pictures(self, start, end, rate=None):
        if not self._used.acquire(blocking=False):
            return
        clock, index, frame = Clock(), 0, self._first
        while frame is not None:
            lost = "the stream ended"
            try:
                while frame is not None and not self._closed.is_set():
                    moment = clock.time_of(stamp_of(frame))
                    yield Picture(moment, index, partial(self._colors, frame, moment))
                    index += 1
                    if end is not None and moment >= end:
                        return
                    frame = next(self._frames, None)
            except (av.FFmpegError, OSError) as error:
                lost = reason_of(error)
            finally:
                self._frames.close()
                self._container.close()
            self._colors.forget()
            frame = self._reconnect(lost, clock.last)
            clock.restart()

    def close(self):
        self._closed.set()
        if self._used.acquire(blocking=False):  # else the reading thread closes what it reads
            self._frames.close()
            self._container.close()

    def _connect(self):
        """Return (container, iterator over decoded frames, the first of them)."""
        options = {"rtsp_flags": "prefer_tcp"} if self._address.lower().startswith("rtsp") else {}
        container = open_container(self._address, format=self._format, options=options, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
        try:
            video = select_stream(container, self.source, self._stream)
            video.thread_type = "SLICE"  # frame threads would hold pictures back
            frames = _decoded(container, video)
            first = next(frames, None)
            if first is None:
                raise VideoError(self.source, "it ended before its first picture")
            return container, frames, first
        except BaseException:
            container.close()
            raise

    def _reconnect(self, lost, reached):
        """The first frame of a new connection, or None when the source was closed meanwhile."""
        for attempt in range(self._tries):
            if self._closed.wait(self._wait * 2**attempt):
                return None
            try:
                self._container, self._frames, frame = self._connect()
                return frame
            except (av.FFmpegError, OSError) as error:
                lost = reason_of(error)
            except VideoError as error:
                lost = error.reason
        if self._closed.is_set():
            return None
        tried = f"; {self._tries} attempts to connect again failed" if self._tries else ""
        raise VideoError(self.source, f"the connection is lost, {lost}{tried}", float(reached))


def camera(number, stream=0):
    """Reader over the camera /dev/video<number>. A camera that is pulled out ends with a VideoError."""
    device = Path(f"/dev/video{number}")
    if not device.exists():
        present = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*"))) or "none"
        raise VideoError(device, f"there is no such camera; cameras here: {present}")
    return LiveVideo(device, stream=stream, format="v4l2", tries=0)


class Clock:
    """Seconds since the first picture: presentation time while a connection lasts, wall time over the gaps between connections."""

    def __init__(self):
        self.last, self._offset, self._began = None, None, time.monotonic()

    def time_of(self, stamp):
        """The time of the next picture. stamp: its presentation time in seconds, None where it says none."""
        if self.last is None:
            self._began, moment = time.monotonic(), Fraction(0)
        elif stamp is not None and self._offset is not None and stamp + self._offset > self.last:
            moment = stamp + self._offset
        else:
            wall = Fraction(time.monotonic() - self._began).limit_denominator(1000)
            moment = max(wall, self.last + Fraction(1, 1000))
        self.last, self._offset = moment, None if stamp is None else moment - stamp
        return moment

    def restart(self):
        """A new connection counts from where it likes."""
        self._offset = None


def stamp_of(frame):
    """Presentation time of an av.VideoFrame in seconds, or None."""
    return None if frame.pts is None or not frame.time_base else frame.pts * frame.time_base


def _decoded(container, video):
    """Decoded frames as they come; packets that fail (joined between key frames, lost on the way) are passed over for a while."""
    heard = time.monotonic()
    for packet in container.demux(video):
        try:
            frames = video.decode(packet)
        except av.InvalidDataError:
            frames = []
        if frames:
            heard = time.monotonic()
        elif time.monotonic() - heard > CONNECT_TIMEOUT:
            raise TimeoutError(f"no picture could be decoded for {CONNECT_TIMEOUT:.0f} s")
        yield from frames
