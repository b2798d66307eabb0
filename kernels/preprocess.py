"""A frame to patch rows: resize, normalize, cut.

    resized = round8(V · round8(H · frame))          separable bicubic (a = -0.5), antialiased when shrinking, horizontal pass first
    row[p]  = ((resized - 255 mean) / (255 std))[channel, y, x] of patch p, channel-major

Weights are integers scaled by 2^precision, each pass rounds half up to uint8. With `weight_bits` = 15 this is the arithmetic of PyTorch's
own uint8 resize (precision follows from the largest weight), with 23 that of Pillow (precision 22); the official processors call one of the
two. Integer sums are exact, so every device gives the same bytes.

Shapes: frame uint8 (H, W, 3), size (h, w), multiples of patch * merge -> (h/patch * w/patch, 3 * patch^2) in `dtype`. Patches come in
merge x merge squares. Floor: reads 3HW bytes, writes 3hw elements; 2 * 3 * (taps_w H w + taps_h h w) integer operations.
"""

import math
from functools import lru_cache

import torch
from torch.nn.functional import interpolate


def cubic(x):
    """The bicubic kernel with a = -0.5."""
    x = abs(x)
    if x < 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


@lru_cache(maxsize=64)
def resize_table(size_in, size_out, weight_bits=15):
    """Taps and integer weights of one axis: index int64 (taps, size_out), weight int32 (taps, size_out), precision in bits."""
    scale = size_in / size_out
    support, stretch = 2 * max(scale, 1.0), max(scale, 1.0)
    taps = math.ceil(support) * 2 + 1
    index, weight = torch.zeros(taps, size_out, dtype=torch.long), torch.zeros(taps, size_out, dtype=torch.float64)
    for i in range(size_out):
        center = scale * (i + 0.5)
        first = max(int(center - support + 0.5), 0)
        count = min(int(center + support + 0.5), size_in) - first
        raw = [cubic((first + j - center + 0.5) / stretch) for j in range(count)]
        weight[:count, i] = torch.tensor(raw, dtype=torch.float64) / sum(raw)
        index[:, i] = (first + torch.arange(taps)).clamp(max=size_in - 1)
    precision = 0
    while precision < 22 and int(0.5 + float(weight.max()) * 2 ** (precision + 1)) < 2**weight_bits:
        precision += 1
    scaled = weight * 2**precision
    return index, (scaled + 0.5 * scaled.sign()).trunc().int(), precision


@lru_cache(maxsize=64)
def resize_table_on(size_in, size_out, weight_bits, device):
    index, weight, precision = resize_table(size_in, size_out, weight_bits)
    return index.to(device), weight.to(device), precision


def reference_resize(frame, size, weight_bits=15):
    """uint8 (H, W, C) -> uint8 (h, w, C), horizontal pass first; an axis that keeps its length is left alone."""
    for axis in (1, 0):
        if frame.shape[axis] != size[axis]:
            index, weight, precision = resize_table_on(frame.shape[axis], size[axis], weight_bits, frame.device)
            shape = [1, 1, 1]
            shape[axis] = size[axis]
            total = torch.full((), 1 << (precision - 1), dtype=torch.int32, device=frame.device)
            for taps, weights in zip(index, weight):
                total = total + frame.index_select(axis, taps).int() * weights.view(shape)
            frame = (total >> precision).clamp_(0, 255).to(torch.uint8)
    return frame


@lru_cache(maxsize=16)
def levels(constants, device):
    """Normalization constants in grey levels, float32 (3,) on the device."""
    return 255 * torch.tensor(constants, dtype=torch.float32, device=device)


def patch_rows(resized, mean, std, patch, merge, dtype):
    """uint8 (h, w, 3) -> normalized patch rows."""
    h, w = resized.shape[:2]
    values = (resized.float() - levels(mean, resized.device)) / levels(std, resized.device)
    shape = (h // (patch * merge), merge, patch, w // (patch * merge), merge, patch, 3)
    return values.view(shape).permute(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3 * patch * patch).to(dtype)


def reference_preprocess(frame, size, mean, std, patch, merge, dtype=torch.float32, weight_bits=15):
    """The formula above in plain torch, on any device."""
    return patch_rows(reference_resize(frame, size, weight_bits), mean, std, patch, merge, dtype)


def preprocess(frame, size, mean, std, patch, merge, dtype=torch.float32, weight_bits=15):
    """uint8 (H, W, 3) on any device -> patch rows (P, 3 * patch^2) on the same device."""
    assert frame.dtype == torch.uint8 and frame.dim() == 3 and frame.shape[2] == 3 and frame.numel() > 0, (frame.dtype, frame.shape)
    assert size[0] % (patch * merge) == 0 and size[1] % (patch * merge) == 0, (size, patch, merge)
    if frame.device.type == "cpu" and weight_bits == 15 and tuple(frame.shape[:2]) != tuple(size):
        # PyTorch's own uint8 resize is this arithmetic, vectorized for the CPU.
        image = frame.permute(2, 0, 1)[None]
        frame = interpolate(image, size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).contiguous()
        return patch_rows(frame, mean, std, patch, merge, dtype)
    return reference_preprocess(frame, size, mean, std, patch, merge, dtype, weight_bits)
