"""Decoded frames in memory of their own and in other colors, and which of them are black: one pass behind a decoder that knows one matrix.

    true = rgb - offset, but 0 and 255 as they are: there the decoder cut off what it had
    out = clamp(floor(M · true + 1/2), 0, 255), or rgb itself without M
    peak = max over the frame of rgb

Shapes: frames, out (n, H, W, 3) uint8, contiguous; M (3, 3), rows for red, green and blue; offset (3,); peak (n,) int32.
Floor: 6·n·H·W bytes, 18·n·H·W FLOPs, so it is bound by bytes.
"""

import torch

from .optional_triton import jit, tl, triton
from .optional_triton import triton_or_twin as implementation

BLOCK = 1024
AT_ONCE = 16 << 20  # values that the twin turns into floats at a time: it needs several times their memory


def reference_recolor(frames, matrix=None, offset=(0.0, 0.0, 0.0)):
    """Plain twin."""
    peak = frames.flatten(1).amax(1).int()
    if matrix is None:
        return frames.clone(), peak
    rows = torch.tensor(matrix, dtype=torch.float32, device=frames.device).T
    shift = torch.tensor(offset, dtype=torch.float32, device=frames.device)
    return torch.cat([_shaded(part, rows, shift) for part in frames.split(max(AT_ONCE // frames[0].numel(), 1))]), peak


def _shaded(part, rows, shift):
    known = (part > 0) & (part < 255)
    return ((part.float() - shift * known) @ rows).add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)


@jit
def _true(shade, offset):
    return shade.to(tl.float32) - tl.where((shade > 0) & (shade < 255), offset, 0.0)


@jit
def _shade(red, green, blue, r, g, b):
    return tl.minimum(tl.maximum(tl.floor(r * red + g * green + b * blue + 0.5), 0.0), 255.0).to(tl.uint8)


@jit
def _recolor_kernel(
    frames, out, peak, pixels, rr, rg, rb, gr, gg, gb, br, bg, bb, off_r, off_g, off_b, RECOLOR: tl.constexpr, BLOCK: tl.constexpr
):
    frame = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < pixels
    at = (frame.to(tl.int64) * pixels + place) * 3
    red, green, blue = tl.load(frames + at, inside, 0), tl.load(frames + at + 1, inside, 0), tl.load(frames + at + 2, inside, 0)
    tl.atomic_max(peak + frame, tl.max(tl.maximum(tl.maximum(red, green), blue).to(tl.int32), 0))
    if RECOLOR:
        r, g, b = _true(red, off_r), _true(green, off_g), _true(blue, off_b)
        red, green, blue = _shade(r, g, b, rr, rg, rb), _shade(r, g, b, gr, gg, gb), _shade(r, g, b, br, bg, bb)
    tl.store(out + at, red, inside)
    tl.store(out + at + 1, green, inside)
    tl.store(out + at + 2, blue, inside)


def launch_recolor(frames, matrix=None, offset=(0.0, 0.0, 0.0)):
    """The Triton kernel: one program for BLOCK pixels of a frame."""
    count, height, width, _ = frames.shape
    out, peak = torch.empty_like(frames), torch.zeros(count, dtype=torch.int32, device=frames.device)
    factors = [float(factor) for row in [*(matrix or 3 * [[0.0] * 3]), offset] for factor in row]
    grid = triton.cdiv(height * width, BLOCK), count
    _recolor_kernel[grid](frames, out, peak, height * width, *factors, RECOLOR=matrix is not None, BLOCK=BLOCK, num_warps=4)
    return out, peak


def recolor(frames, matrix=None, offset=(0.0, 0.0, 0.0)):
    """(frames in memory of their own, each less `offset` and times `matrix` if one is given; largest value of each). frames: uint8
    (n, H, W, 3), contiguous, n at least 1; matrix: rows of three numbers; offset: what is too much in red, green and blue."""
    assert frames.dtype == torch.uint8 and frames.dim() == 4 and frames.shape[3] == 3 and frames.is_contiguous(), "RGB, row by row"
    return (reference_recolor if implementation(frames.device.type) == "pytorch" else launch_recolor)(frames, matrix, offset)
