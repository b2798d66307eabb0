"""What size a frame gets before it is cut into patches: the resize rule of each family."""

import math

from .errors import FrameError


def frame_size(pixels, height, width, tokens=None):
    """(height, width) that the model sees of a frame of height x width pixels.

    `tokens` caps the visual tokens of a frame by the family's own rule. Raises FrameError for an empty or extremely long frame and for a
    budget that the family cannot meet.
    """
    if height < 1 or width < 1:
        raise FrameError(f"a frame of {height} x {width} pixels is empty")
    if tokens is not None and tokens < max(1, pixels.fixed_tokens):
        least = max(1, pixels.fixed_tokens)
        raise FrameError(f"a budget of {tokens} tokens a frame is too small; this model needs at least {least}")
    return RULES[pixels.rule](pixels, height, width, tokens)


def grid(pixels, height, width):
    """(rows, columns) of patches of a frame that has its final size."""
    return height // pixels.patch, width // pixels.patch


def smart_size(pixels, height, width, tokens):
    """Sides to the nearest multiples of `unit` (halves to even), then scaled so that the area lies between the limits."""
    if max(height, width) > 200 * min(height, width):
        raise FrameError(f"a frame of {height} x {width} pixels is too elongated: the longer side may be at most 200 times the shorter one")
    unit, low, high = pixels.unit, pixels.min_pixels, pixels.max_pixels
    if tokens is not None:
        high = min(high, tokens * unit**2)
        low = min(low, high)
    h, w = round(height / unit) * unit, round(width / unit) * unit
    if h * w > high:
        shrink = math.sqrt(height * width / high)
        h, w = (max(unit, math.floor(side / shrink / unit) * unit) for side in (height, width))
    elif h * w < low:
        grow = math.sqrt(low / (height * width))
        h, w = (math.ceil(side * grow / unit) * unit for side in (height, width))
    if tokens is not None and h * w > high:
        # The published rule lets very small and very long frames exceed the limit; a budget is a budget.
        h = max(unit, high // w // unit * unit)
        w = min(w, high // h // unit * unit)
    return h, w


def tile_size(pixels, height, width, tokens):
    """One square tile; a budget below its tokens takes a smaller tile."""
    side = pixels.side
    if tokens is not None:
        side = min(side, math.isqrt(tokens) * pixels.unit)
    return side, side


def area_size(pixels, height, width, tokens):
    """Scaled, up or down, to the area of `side` squared with the aspect ratio kept; sides to the nearest multiples of `unit`."""
    ratio = width / height
    h = int(pixels.side / math.sqrt(ratio))
    w = int(h * ratio)
    return tuple(max(round(side / pixels.unit) * pixels.unit, pixels.unit) for side in (h, w))


RULES = {"smart": smart_size, "tile": tile_size, "area": area_size}
