"""Frames in: whatever a user holds becomes uint8 RGB, then patches, then visual tokens."""

from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch

from ..kernels import native
from ..kernels.preprocess import preprocess, tables
from .errors import FrameError
from .graphs import FRAME_SHAPES, LARGEST, TowerGraph, weights_of
from .pixels import frame_size, grid

AT_ONCE = 16  # frames in one pass of the tower
MOST_SHRUNK = 16  # beyond that a frame may be resized by the plain twin, whose tables nothing holds


@dataclass(frozen=True)
class EncodedFrame:
    """Visual tokens of one frame: tokens (n, h), deepstack (S, n, h) or None, `grid` of merged patches; `peak`: the largest magnitude, on
    the device, of all frames that went through the tower together."""

    tokens: torch.Tensor
    deepstack: torch.Tensor | None
    grid: tuple
    peak: torch.Tensor

    @property
    def count(self):
        """Number of visual tokens."""
        return self.tokens.shape[0]


def as_uint8_rgb(frame, device):
    """The same as `as_tensor`, on `device`."""
    return as_tensor(frame).to(device, non_blocking=True)


def as_tensor(frame):
    """A torch tensor, numpy array, PIL image or DLPack producer, (H, W, 3) uint8 RGB -> tensor, wherever it lies; it may share the caller's
    memory. Raises FrameError."""
    if hasattr(frame, "convert") and hasattr(frame, "getbands"):
        frame = np.array(frame.convert("RGB"))
    if isinstance(frame, np.ndarray):
        if frame.dtype != np.uint8:
            raise FrameError(f"a frame is uint8 RGB (height, width, 3); this one is {frame.dtype} {frame.shape}")
        frame = torch.from_numpy(np.ascontiguousarray(frame))
    elif not isinstance(frame, torch.Tensor):
        if not hasattr(frame, "__dlpack__"):
            raise FrameError(f"a frame is a torch tensor, numpy array, PIL image or DLPack producer, not {type(frame).__name__}")
        frame = torch.from_dlpack(frame)
    if frame.dtype != torch.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or 0 in frame.shape:
        raise FrameError(f"a frame is uint8 RGB (height, width, 3); this one is {frame.dtype} {tuple(frame.shape)}")
    return frame


class FrameEncoder:
    """Preprocessing and tower of one model."""

    def __init__(self, tower, config, device, dtype, size, tokens_per_frame, graphs):
        self.tower, self.pixels, self.device, self.dtype, self.weights = tower, config.pixels, device, dtype, weights_of(tower)
        self.size, self.tokens_per_frame, self.graphs = size, tokens_per_frame, graphs
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None

    def upload(self, frame):
        """A copy of a frame on the device: (tensor, CUDA event behind the copy, or None). Runs beside whatever the device computes."""
        frame = as_tensor(frame)
        if self.side is None:
            return frame.to(self.device, copy=True), None
        if frame.is_cuda:
            stream, source = torch.cuda.current_stream(self.device), frame
            frame.record_stream(stream)  # its memory may be a decoder's stream's, which writes again into what was let go of
        else:
            stream, source = self.side, torch.empty(frame.shape, dtype=frame.dtype, pin_memory=True).copy_(frame)
        with torch.cuda.stream(stream):
            return source.to(self.device, non_blocking=True, copy=True), stream.record_event()

    def size_of(self, frame):
        """(height, width) the model sees of streams that begin with this frame: the engine's `frame_size`, or by the family's rule."""
        height, width = self.size or frame.shape[:2]
        return frame_size(self.pixels, height, width, self.tokens_per_frame)

    def patches(self, frame, size):
        """Patch rows of one frame resized to `size`: (P, 3·p·p) in the tower's dtype."""
        pixels = self.pixels
        return preprocess(frame, size, pixels.mean, pixels.std, pixels.patch, pixels.merge, self.dtype, pixels.weight_bits)

    def see(self, frames, sizes, watch):
        """uint8 frames (H, W, 3), wherever they lie, resized to their sizes and through the tower -> list of EncodedFrame, not yet checked
        by `check_finite`."""
        graph = self.frame_graph(frames[0], sizes[0]) if len(frames) == 1 else None
        if graph:  # the device waits for this launch: whatever can come behind it does
            encoded = self.cut(*graph(frames[0]), (grid(self.pixels, *sizes[0]),))
        else:
            patches = [self.patches(frame.to(self.device, non_blocking=True), size) for frame, size in zip(frames, sizes)]
            watch.lap("preprocess")
            encoded = self.encode(patches, sizes)
        watch.lap("vision")
        return encoded

    def frame_graph(self, frame, size):
        """The graph from one frame's bytes to its visual tokens; None when there is none (yet)."""
        shape, graphs = grid(self.pixels, *size), self.graphs
        height, width = frame.shape[:2]
        if not graphs or shape[0] * shape[1] * self.weights > LARGEST or height > MOST_SHRUNK * size[0] or width > MOST_SHRUNK * size[1]:
            return None
        key = ("tower", (shape,), (height, width))
        if key not in graphs.kept and sum(other[0] == "tower" and len(other) == 3 for other in graphs.kept) >= FRAME_SHAPES:
            return None

        def make():
            there = frame.to(self.device)
            axes = tables((height, width), tuple(size), self.pixels.weight_bits, there.device) if native.compiled(there) else ()
            constants = self.tower.plan((shape,)), axes
            return TowerGraph(graphs, lambda pixels: self.look(self.patches(pixels, size), (shape,)), there, constants)

        return graphs.get(key, make)

    def encode(self, patches, sizes):
        """Several frames' patches through the tower -> list of EncodedFrame, not yet checked by `check_finite`."""
        grids = [grid(self.pixels, *size) for size in sizes]
        return [frame for begin, end in self.passes(grids) for frame in self.encode_together(patches[begin:end], tuple(grids[begin:end]))]

    def passes(self, grids):
        """Runs (begin, end) of frames that go through the tower together: all at once, or, with graphs, neighbors of one shape by powers
        of two, so that few captures and few plans serve any number of them."""
        if not self.graphs:
            return [(0, len(grids))]
        result, begin = [], 0
        while begin < len(grids):
            same = begin
            while same < len(grids) and same - begin < AT_ONCE and grids[same] == grids[begin]:
                same += 1
            end = begin + (1 << (same - begin).bit_length() - 1)
            result.append((begin, end))
            begin = end
        return result

    def encode_together(self, patches, grids):
        """One pass of the tower."""
        patches = patches[0] if len(patches) == 1 else torch.cat(patches)
        make = lambda: TowerGraph(self.graphs, lambda rows: self.look(rows, grids), patches, self.tower.plan(grids))  # noqa: E731
        captured = self.graphs and len(patches) * self.weights <= LARGEST
        graph = self.graphs.get(("tower", grids), make) if captured else None
        return self.cut(*(graph(patches) if graph else self.look(patches, grids)), grids)

    def cut(self, visual, peak, grids):
        """What one pass of the tower gave, frame by frame: a list of EncodedFrame."""
        counts = [self.tower.tokens(*shape) for shape in grids]
        deepstack = [None] * len(grids) if visual.deepstack is None else visual.deepstack.split(counts, dim=1)
        merge = self.pixels.merge
        merged = [(height // merge, width // merge) for height, width in grids]
        return [EncodedFrame(*parts, peak) for parts in zip(visual.tokens.split(counts), deepstack, merged)]

    def look(self, patches, grids):
        """(VisualTokens, the largest magnitude among them, on the device: a number that is not finite if one of them is not)."""
        visual = self.tower(patches, grids)
        peaks = [torch.linalg.vector_norm(part, torch.inf) for part in visual if part is not None]
        return visual, peaks[0] if len(peaks) == 1 else torch.stack(peaks).amax()


def flags(encoded):
    """The distinct peaks of frames: one for each pass of the tower."""
    return list(dict.fromkeys(frame.peak for frame in encoded))


def check_finite(encoded, peaks):
    """Raise FrameError if one of the `flags` of these frames, read to the host, says that features are NaN or Inf."""
    if all(map(isfinite, peaks)):
        return
    for index, frame in enumerate(encoded):
        parts = [part for part in (frame.tokens, frame.deepstack) if part is not None]
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            raise FrameError(
                f"the features of frame {index} of this call are NaN or Inf; no stream took a step. "
                "Look at the frame, or load the engine with a wider dtype"
            )
