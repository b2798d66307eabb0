"""Frames in: whatever a user holds becomes uint8 RGB, then patches, then visual tokens."""

from dataclasses import dataclass

import numpy as np
import torch

from ..kernels.preprocess import preprocess
from .errors import FrameError
from .graphs import TowerGraph
from .pixels import frame_size, grid


@dataclass(frozen=True)
class EncodedFrame:
    """Visual tokens of one frame: tokens (n, h), deepstack (S, n, h) or None, `grid` of merged patches; `finite`: a flag on the device, of
    all frames that went through the tower together."""

    tokens: torch.Tensor
    deepstack: torch.Tensor | None
    grid: tuple
    finite: torch.Tensor

    @property
    def count(self):
        """Number of visual tokens."""
        return self.tokens.shape[0]


def as_uint8_rgb(frame, device):
    """A torch tensor, numpy array, PIL image or DLPack producer, (H, W, 3) uint8 RGB -> tensor on `device`. Raises FrameError."""
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
    return frame.to(device, non_blocking=True)


class FrameEncoder:
    """Preprocessing and tower of one model."""

    def __init__(self, tower, config, device, dtype, size, tokens_per_frame, graphs):
        self.tower, self.pixels, self.device, self.dtype = tower, config.pixels, device, dtype
        self.size, self.tokens_per_frame, self.graphs = size, tokens_per_frame, graphs

    def size_of(self, frame):
        """(height, width) the model sees of streams that begin with this frame: the engine's `frame_size`, or by the family's rule."""
        height, width = self.size or frame.shape[:2]
        return frame_size(self.pixels, height, width, self.tokens_per_frame)

    def patches(self, frame, size):
        """Patch rows of one frame resized to `size`: (P, 3·p·p) in the tower's dtype."""
        pixels = self.pixels
        return preprocess(frame, size, pixels.mean, pixels.std, pixels.patch, pixels.merge, self.dtype, pixels.weight_bits)

    def encode(self, patches, sizes):
        """One pass of the tower over several frames' patches -> list of EncodedFrame, not yet checked by `check_finite`."""
        grids = tuple(grid(self.pixels, *size) for size in sizes)
        patches = torch.cat(patches)
        graph = self.graphs and self.graphs.get(("tower", grids), lambda: TowerGraph(self.graphs, self.tower, patches, grids))
        visual = graph(patches) if graph else self.tower(patches, grids)
        counts = [self.tower.tokens(*shape) for shape in grids]
        features = visual.tokens[None] if visual.deepstack is None else torch.cat((visual.tokens[None], visual.deepstack))
        finite = torch.isfinite(features).all()
        deepstack = [None] * len(grids) if visual.deepstack is None else visual.deepstack.split(counts, dim=1)
        merge = self.pixels.merge
        merged = [(height // merge, width // merge) for height, width in grids]
        return [EncodedFrame(*parts, finite) for parts in zip(visual.tokens.split(counts), deepstack, merged)]


def check_finite(encoded):
    """Raise FrameError if features of these frames are NaN or Inf. Makes the host wait for the tower."""
    if all(bool(flag) for flag in {frame.finite for frame in encoded}):  # one flag a pass: one wait, not one a frame
        return
    for index, frame in enumerate(encoded):
        parts = [part for part in (frame.tokens, frame.deepstack) if part is not None]
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            raise FrameError(
                f"the features of frame {index} of this call are NaN or Inf; no stream took a step. "
                "Look at the frame, or load the engine with a wider dtype"
            )
