"""A video file (or a recording behind an address) read with PyAV: one stream, packet by packet, damage reported at the end."""

import os
import threading
from contextlib import suppress
from fractions import Fraction
from functools import partial
from pathlib import Path

import av

from .errors import VideoError
from .video_colors import ToRgb, filters_suit, turn_of
from .video_feed import Damaged, planned_packets, stretches
from .video_index import read_index
from .video_index_process import LONG, READERS
from .video_packets import Tally, from_key_frame, open_container, read_alone, reason_of
from .video_plan import make_plan
from .video_source import Picture

# Containers whose header states how long each stream is; elsewhere the duration is a guess from what is there.
STATES_DURATION = {"mov", "avi", "matroska", "flv"}
NETWORK_OPTIONS = {"reconnect": "1", "reconnect_on_network_error": "1", "reconnect_delay_max": "8", "reconnect_max_retries": "6"}
# Each packet lets go of Python's lock several times, which threads that go through packets then pass around slowly: one file after the
# other is read sooner than many at once.
INDEXING = threading.Lock()
FULL_RANGE = 2  # FFmpeg's number of brightness from 0 to 255
LARGE = 1920 * 1088  # pixels; more wait for memory rather than for each other
MOST_THREADS = 32  # each holds a picture back at the beginning
SLOWEST, FASTEST = Fraction(1, 100_000), 100_000  # frames a second; what headers say beyond is damage
JUMP = 1  # seconds back: more is not a wrong time stamp but a new recording appended to the file


class VideoFile:
    """Reader over one video stream of a file. cores: asked for the CPU cores that are there for it when decoding begins; None: all, as it
    takes them. Raises VideoError when it is missing, not a video, or no picture of it can be decoded."""

    live = False

    def __init__(self, source, stream=0, over_network=False, cores=None):
        self.source, self.stream, self._over_network, self._cores = str(source), stream, over_network, cores
        self.decoded = self.skipped = 0
        self.works_ahead = False  # decodes every picture, on two threads a core: who feeds it can leave it alone for a while
        self._indexed = None
        # "file:" keeps names with a colon from being taken for protocols. The working folder may change before the file is opened again.
        self._address = self.source if over_network else f"file:{os.path.abspath(source)}"
        self._network = {"options": NETWORK_OPTIONS, "timeout": 20.0} if over_network else {}
        if not over_network:
            _check_file(Path(source))
        with self.open() as container:
            video = self.video_of(container)
            self.stated_size = video.codec_context.width, video.codec_context.height
            first = _first_frame(container, video, self.source)
            self.codec, self.base = video.codec_context.codec.canonical_name, video.time_base
            self._number, self.origin = video.index, 0 if first.pts is None else first.pts
            self.pixel_format, self.stored_size, self.turn = first.format.name, (first.width, first.height), turn_of(first)
            self.matrix, self.interlaced = int(first.colorspace), first.interlaced_frame
            self.full_range = int(first.color_range) == FULL_RANGE or self.pixel_format.startswith("yuvj")
            self.rotation = -first.rotation % 360
            self.width, self.height = reversed(self.stored_size) if self.turn[0] else self.stored_size
            rate = video.average_rate or video.guessed_rate
            self.fps, self._period = (float(rate), 1 / rate) if rate and SLOWEST < rate < FASTEST else (None, Fraction(1, 25))
            self.frames = video.frames or None
            self._promised = _stated_duration(container, video, self.origin * self.base)
            # The header counts the pictures, so that one which is missing is missed.
            counted = "mov" in container.format.name.split(",") and self.frames and video.start_time == self.origin
            self._regular = counted and not over_network and filters_suit(self.pixel_format, self.stored_size[1])
            known = self._promised or (container.duration and Fraction(container.duration, av.time_base))
            self.duration = float(known) if known else None

    def pictures(self, start, end, rate=None):
        last = None
        cores, (width, height) = self._cores() if self._cores else 0, self.stored_size
        self._colors = ToRgb(self.source, max(cores // 4, 1) if cores else os.cpu_count())
        # A picture often waits for one that it refers to, or for the next packet while another is converted: with more threads than cores
        # there is something else to do.
        twofold = cores > 1 and width * height <= LARGE
        self._threads = min(2 * cores if twofold else cores + cores // 2, MOST_THREADS)
        sampled = rate and self.fps and 2 * rate <= self.fps
        self.works_ahead = twofold and not sampled and not self._over_network
        try:
            plan = sampled and self.plan(start, end, rate)
            # Each takes over behind the last good picture of the one before.
            for attempt in self._attempts(start, end, plan, whole=cores and self._regular and not (rate or start or end)):
                with suppress(Damaged):
                    for picture in attempt(last):
                        last = picture.time
                        yield picture
                    return
        finally:
            self._colors.forget()
            self.works_ahead = False

    def _attempts(self, start, end, plan, whole):
        """Ways to decode, the fastest first: functions of the time of the last picture that there was."""

        def on(threads):
            return lambda last: self._decode(start if last is None else last, end, threads, after=last)

        if plan and plan.cheaper:
            yield lambda last: self._decode_planned(plan)
        else:
            if whole:
                yield lambda last: self._decode_whole()
            yield on("AUTO")
        # Decoding on several threads reports an error packets late and loses the last pictures of a cut file. What is left is read again on
        # one thread, which tells exactly what failed.
        yield on("NONE")

    def plan(self, start, end, rate):
        """`Plan` of the ticks of `rate` (None: of every picture), or None where the index cannot be trusted or is a download away."""
        if self._over_network:
            return None
        self._indexed = self._indexed or self._index()  # who decodes elsewhere plans before and, should it come to that, behind
        index, tally = self._indexed
        if index is None or self._missing(tally):
            return None
        return make_plan(index, self.origin, self.base, rate, start, end)

    def _index(self):
        """(PacketIndex or None, Tally), from a process of its own for a long file."""
        packets = self.frames or (self.duration or 0) * (self.fps or 0)
        if packets >= LONG:
            try:
                return READERS.read(self._address, self._number)
            except OSError:
                pass
        tally = Tally()
        with INDEXING, self.open() as container:
            return read_index(container, self.video_of(container), tally), tally

    def close(self):
        """The thread that iterates `pictures` closes what it opened."""

    def _decode_whole(self):
        """Yield the pictures of a regular file. Raises Damaged where one is missing, or not as the others are."""
        period, due, count = float(self._period / self.base), self.origin, 0
        try:
            for pts, pixels in self._colors.whole(self._address, self._number, self.stored_size, self.turn, self._threads):
                self.decoded += 1
                if abs(pts - due) > period / 2:
                    raise Damaged
                yield Picture((pts - self.origin) * self.base, count, lambda pixels=pixels: pixels)
                due, count = pts + period, count + 1
        except (av.FFmpegError, OSError, UnicodeEncodeError) as error:
            raise Damaged from error
        if count != self.frames:
            raise Damaged

    def _decode_planned(self, plan):
        """Yield the pictures of `plan` and, without its pixels, the last one. Raises Damaged unless everything is as the index says."""
        waiting = iter(plan.shown.items())
        pts, index = next(waiting, (None, None))
        for frame in self._planned_frames(plan):
            if frame.is_corrupt or (pts is not None and frame.pts > pts):
                raise Damaged
            if frame.pts == pts:
                time = (pts - self.origin) * self.base
                yield Picture(time, index, partial(self._colors, frame, time))
                pts, index = next(waiting, (None, None))
        if pts is not None:
            raise Damaged
        if plan.last not in plan.shown:
            yield Picture((plan.last - self.origin) * self.base, None, None)

    def _planned_frames(self, plan):
        """The frames that a plan decodes. Raises Damaged where the decoder fails, or finds no key frame to jump to."""
        landed = None
        # Packets come from one container and are decoded by the other one's decoder, which a jump in the file would empty.
        with self.open() as container, self.open() as decoding:
            video = self.video_of(decoding)
            video.thread_type, video.codec_context.thread_count = "AUTO", self._threads
            try:
                for jump, frames in stretches(plan, video, planned_packets(self, container, plan)):
                    for frame in frames:
                        if jump != landed and not frame.key_frame:
                            raise Damaged
                        landed = jump
                        yield frame
            except (av.FFmpegError, OSError) as error:
                raise Damaged from error

    def open(self):
        try:
            return open_container(self._address, **self._network)
        except (av.FFmpegError, OSError) as error:
            hint = ": not a video, or its index is missing (a recording that was cut off)" if isinstance(error, av.InvalidDataError) else ""
            raise VideoError(self.source, f"cannot be opened, {reason_of(error)}{hint}") from error

    def video_of(self, container):
        """The stream to decode of a container that `open` gave; the others are not read."""
        video = select_stream(container, self.source, self.stream)
        read_alone(container, video)
        return video

    def _decode(self, start, end, threads, after=None):
        tally = Tally()
        last, shift, estimate, passed = after, 0, self.origin, after is None
        with self.open() as container:
            video = self.video_of(container)
            video.thread_type, video.codec_context.thread_count = threads, self._threads
            skip_to = self.origin + int(start / self.base)
            for packet in from_key_frame(tally.watch(container, video), skip_to):
                tally.fed += packet is not None and not packet.is_discard
                self.decoded += packet is not None
                try:
                    frames = video.decode(packet)
                except av.FFmpegError as error:
                    if threads != "NONE":
                        raise Damaged from error
                    tally.failed.append(packet)
                    continue
                for frame in frames:
                    tally.decoded += 1
                    pts = estimate if frame.pts is None else frame.pts
                    estimate = pts + int(self._period / self.base)
                    time = (pts - self.origin) * self.base + shift
                    if not passed:  # up to and with the one at `after` all were there before
                        passed = time >= after
                        if time <= after:
                            tally.rank(pts)
                            continue
                    if last is not None and time <= last:
                        if tally.failed:
                            continue  # a damaged stream that shows its pictures out of order
                        if time < last - JUMP:
                            shift += last + self._period - time
                            time = last + self._period
                        time = max(time, last)
                    last = time
                    yield Picture(time, tally.rank(pts), partial(self._colors, frame, time))
                    if end is not None and time >= end:
                        tally.report(self, last)
                        return
            if threads != "NONE" and (tally.broken or tally.decoded < tally.fed):
                raise Damaged
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


def select_stream(container, source, stream):
    """The video stream number `stream`; cover pictures of sound files do not count."""
    videos = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not videos:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise VideoError(source, f"there is no video stream in it, only {kinds}")
    if not 0 <= stream < len(videos):
        raise VideoError(source, f"it has {len(videos)} video stream(s), counted from 0; number {stream} was asked for")
    if videos[stream].codec_context is None:
        raise VideoError(source, "nothing here decodes the format of its pictures, or the header names a wrong one")
    return videos[stream]


def _check_file(path):
    if not path.exists():
        raise VideoError(path, "there is no such file")
    if path.is_file() and path.stat().st_size == 0:
        raise VideoError(path, "the file is empty")


def _first_frame(container, video, source):
    error = None
    for packet in Tally().watch(container, video):
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
        with suppress(ValueError):  # anybody may have written anything there
            hours, minutes, seconds = video.metadata["DURATION"].split(":")
            return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds) - origin
    if len(container.streams) == 1 and container.duration:
        return Fraction(container.duration, av.time_base) - origin
    return None
