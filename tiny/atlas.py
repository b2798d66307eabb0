"""The shapes of the world as one table of signed distances, so that a shape is a lookup and its edge is smooth at any size."""

import math
from functools import cache

import numpy as np
import torch

from .lexicon import SHAPES, STEPS

EXTENT = 1.5  # the table covers [-EXTENT, EXTENT] in both directions of the shape's own frame, whose radius is 1
RESOLUTION = 96
DIGITS = tuple(f"digit {d}" for d in range(10))
GLYPHS = (*SHAPES, *DIGITS, "board", "bowl", *STEPS)
INDEX = {name: i for i, name in enumerate(GLYPHS)}

_SEGMENTS = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc", "abcdefg", "abcdfg")
_BARS = {  # a seven-segment digit: center and half size of each bar
    "a": (0, -0.8, 0.36, 0.13),
    "g": (0, 0, 0.36, 0.13),
    "d": (0, 0.8, 0.36, 0.13),
    "f": (-0.42, -0.4, 0.13, 0.42),
    "b": (0.42, -0.4, 0.13, 0.42),
    "e": (-0.42, 0.4, 0.13, 0.42),
    "c": (0.42, 0.4, 0.13, 0.42),
}


@cache
def distances() -> torch.Tensor:
    """The table, float32 `(glyphs, RESOLUTION, RESOLUTION)`: negative inside, in units of the shape's radius. Rows run along y, down."""
    line = (np.arange(RESOLUTION) + 0.5) / RESOLUTION * 2 * EXTENT - EXTENT
    x, y = np.meshgrid(line, line)
    table = _plain(x, y) | _tools(x, y)
    for digit, bars in zip(DIGITS, _SEGMENTS):
        table[digit] = np.minimum.reduce([_box(x, y, *_BARS[bar]) for bar in bars])
    return torch.from_numpy(np.stack([table[name] for name in GLYPHS]).astype(np.float32))


def _plain(x, y):
    star = [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate([1.15, 0.46] * 5)]
    return {
        "circle": _disc(x, y, 0, 0, 0.95),
        "square": _box(x, y, 0, 0, 0.84, 0.84),
        "triangle": _polygon(x, y, [(0, -1.05), (1.05, 0.8), (-1.05, 0.8)]),
        "diamond": _polygon(x, y, [(0, -1.15), (0.8, 0), (0, 1.15), (-0.8, 0)]),
        "cross": np.minimum(_box(x, y, 0, 0, 0.34, 1.0), _box(x, y, 0, 0, 1.0, 0.34)),
        "star": _polygon(x, y, star),
        "ring": np.abs(_disc(x, y, 0, 0, 0.74)) - 0.24,
    }


def _tools(x, y):
    dots = [_disc(x, y, px, py, 0.2) for px, py in ((-0.6, -0.5), (0.1, -0.7), (0.6, -0.2), (-0.3, 0.1), (0.3, 0.5), (-0.7, 0.7))]
    waves = [np.abs(y - h - 0.18 * np.sin(5 * x)) - 0.13 for h in (-0.6, 0.0, 0.6)]
    return {
        "board": _box(x, y, 0, 0, 1.0, 1.25),
        "bowl": np.maximum(_disc(x, y, 0, -0.4, 1.1), -(y + 0.2)),
        "wash": np.maximum(np.minimum.reduce(waves), np.abs(x) - 1.0),
        "cut": _polygon(x, y, [(-1.1, -0.25), (1.1, -0.25), (0.7, 0.3), (-1.1, 0.3)]),
        "pour": np.minimum(_disc(x, y, 0, 0.35, 0.62), _polygon(x, y, [(0, -1.2), (0.55, 0.1), (-0.55, 0.1)])),
        "mix": np.minimum(_box(x, y, 0, -0.35, 0.12, 0.85), _disc(x, y, 0, 0.75, 0.42)),
        "season": np.minimum.reduce(dots),
        "heat": np.minimum.reduce(
            [_polygon(x, y, [(c, -h), (c + 0.36, 0.7), (c - 0.36, 0.7)]) for c, h in ((-0.7, 0.5), (0, 1.1), (0.7, 0.5))]
        ),
        "cover": np.minimum(np.maximum(_disc(x, y, 0, 0.4, 1.15), y - 0.4), _disc(x, y, 0, -0.9, 0.25)),
        "serve": np.minimum(_box(x, y, 0, 0.1, 1.2, 0.14), _box(x, y, 0, 0.4, 0.5, 0.2)),
    }


def _disc(x, y, cx, cy, radius):
    return np.hypot(x - cx, y - cy) - radius


def _box(x, y, cx, cy, half_width, half_height):
    dx, dy = np.abs(x - cx) - half_width, np.abs(y - cy) - half_height
    return np.hypot(np.maximum(dx, 0), np.maximum(dy, 0)) + np.minimum(np.maximum(dx, dy), 0)


def _polygon(x, y, corners):
    """Distance to the nearest edge, its sign from the even-odd rule."""
    nearest, inside = np.full(x.shape, np.inf), np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1]):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
    return np.where(inside, -nearest, nearest)
