"""Decoded frames as upright RGB, in memory that is used again: the pages of fresh memory cost more than the conversion that fills them."""

import weakref
from contextlib import suppress

import av
import numpy as np
import torch
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.reformatter import VideoReformatter

from .errors import VideoError
from .video_packets import reason_of

SMALL = 500_000  # pixels: below, waking threads costs more than they save
THREADS = 4  # more of them wait for memory
PLAIN = {"yuv420p", "yuvj420p"}  # 8 bits, a chroma sample for four pixels
# FFmpeg's numbers of transpositions, by what is mirrored behind a plain one: rows, columns.
TRANSPOSE = {(False, False): 0, (False, True): 1, (True, False): 2, (True, True): 3}
TO_RGB = [("scale", {"flags": "bilinear", "interl": -1, "eval": "frame"}), ("format", {"pix_fmts": "rgb24"})]


class ToRgb:
    """Turns the frames (av.VideoFrame) of `source` into tensors, on one thread of the caller's at a time and up to `threads` of its own.

    A tensor that is let go of leaves its memory to a later one, so there is as much of it as tensors were held at once.
    """

    def __init__(self, source, threads=1):
        self._source, self._threads, self._others = str(source), min(threads, THREADS), VideoReformatter()
        self.forget()

    def __call__(self, frame, time=None):
        """uint8 (H, W, 3) RGB, contiguous, turned and mirrored as the display matrix of the frame says.

        Raises VideoError with the frame's `time` (seconds) for pixels that FFmpeg does not convert.
        """
        try:
            return self._convert(frame)
        except (av.FFmpegError, ValueError) as error:
            reason = f"a {frame.format.name} picture cannot be turned into RGB, {reason_of(error)}"
            raise VideoError(self._source, reason, None if time is None else float(time)) from error

    def forget(self):
        """Let go of the memory that no tensor uses, and of what is known of the source."""
        self._graph = self._key = None
        self._free, self._turns = [], {}

    def whole(self, address, stream, size, turn, threads):
        """Yield (pts, tensor) of the pictures of a file, which FFmpeg's filters read, decode on `threads` threads and convert in
        one call: Python's lock is passed on once a picture, not ten times. For formats that `filters_suit`, all of one `turn`.

        size: (width, height), by which the threads of the conversion are chosen. Raises av.FFmpegError.
        """
        movie = "movie", {"filename": address, "stream_index": stream, "dec_threads": threads}
        graph = _linked([movie, *TO_RGB, *_transposed(turn)], self._threads_for(*size))
        with suppress(av.EOFError):
            while True:
                rgb = graph.pull()
                yield rgb.pts, self._pixels(rgb, turn)

    def _convert(self, frame):
        turn, threads = self._turn_of(frame), self._threads_for(frame.width, frame.height)
        steps = _transposed(turn)
        if filters_suit(frame.format.name, frame.height):
            steps = [*TO_RGB, *steps]
        else:
            frame = self._others.reformat(frame, format="rgb24", threads=threads)
        return self._pixels(self._filtered(frame, steps, threads) if steps else frame, turn)

    def _pixels(self, rgb, turn):
        # Shaped by numpy: torch lets go of Python's lock in each operation, and gets it back late where many threads decode.
        rows = np.frombuffer(rgb.planes[0], np.uint8).reshape(rgb.height, -1)
        pixels = rows[:, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
        if not pixels.flags.c_contiguous:  # FFmpeg likes rows that begin at multiples of 64 bytes
            pixels = self._copied(pixels)
        pixels = torch.from_numpy(pixels)
        return pixels if turn[0] else upright(pixels, turn)

    def _threads_for(self, width, height):
        return self._threads if width * height > SMALL else 1

    def _turn_of(self, frame):
        # To look at the side data ties a frame into a cycle, which keeps its memory until Python collects garbage. Its rotation is free.
        if frame.rotation not in self._turns:
            self._turns[frame.rotation] = turn_of(frame)
        return self._turns[frame.rotation]

    def _filtered(self, frame, steps, threads):
        """The frame behind FFmpeg's filters `steps`, whose output has memory that earlier frames left."""
        key = frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range, steps
        if key != self._key:
            form = {"video_size": f"{frame.width}x{frame.height}", "pix_fmt": frame.format.name, "time_base": "1/25"}
            self._graph, self._key = _linked([("buffer", form), *steps], threads), key
        self._graph.push(frame)
        return self._graph.pull()

    def _copied(self, pixels):
        memory = self._free.pop() if self._free else None
        if memory is None or memory.size != pixels.size:
            memory = np.empty(pixels.size, np.uint8)
        copy = memory.reshape(pixels.shape)
        np.copyto(copy, pixels)
        # The tensor holds this very view, and nothing else does.
        weakref.finalize(copy, self._free.append, memory).atexit = False
        return copy


def filters_suit(pixel_format, height):
    """Whether FFmpeg's filters turn such pictures into RGB as they should: where a chroma sample belongs to a square of four pixels.
    Elsewhere its place counts, which they do not know."""
    return pixel_format in PLAIN and height % 2 == 0


def _linked(steps, threads):
    """A graph of filters, (name, options) each, one behind the other; the last one gives its frames."""
    graph = Graph()
    graph.threads = threads
    steps = [(name, {key: str(value) for key, value in options.items()}) for name, options in [*steps, ("buffersink", {})]]
    graph.link_nodes(*(graph.add(name, **options) for name, options in steps))
    return graph


def _transposed(turn):
    swap, *mirrored = turn
    return [("transpose", {"dir": TRANSPOSE[tuple(mirrored)]})] if swap else []


def turn_of(frame):
    """(swap height and width, then mirror rows, mirror columns) that makes a decoded frame upright: the nearest quarter turn."""
    matrix = next((item for item in frame.side_data if item.type is Type.DISPLAYMATRIX), None)
    if matrix is None:
        return False, False, False
    # x' = a x + c y and y' = b x + d y (ISO 14496-12, 8.5.2)
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    swap = abs(a) + abs(d) < abs(b) + abs(c)
    return (True, b < 0, c < 0) if swap else (False, d < 0, a < 0)


def upright(pixels, turn):
    """`pixels` (..., H, W, 3) after a `turn_of`."""
    swap, rows, columns = turn
    pixels = pixels.transpose(-3, -2) if swap else pixels
    dims = [dim for dim, mirrored in ((-3, rows), (-2, columns)) if mirrored]
    return pixels.flip(dims) if dims else pixels
