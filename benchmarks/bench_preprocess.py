"""preprocess against the usual PyTorch pipeline on the GPU (antialiased bicubic, round, normalize, permute), eager and compiled.

    python -m benchmarks.bench_preprocess [--refcheck] [--alone]

Frames take turns so that each comes from memory.
"""

from functools import partial

import torch
from torch.nn.functional import interpolate

from evostreaming.kernels.preprocess import implementation, preprocess, reference_preprocess

from .cases import Case, main, speed_of

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# name, frame, size that the model sees, patch, merge, weight bits
SHAPES = {
    "448x448 -> 448x448": ("448x448 -> 448x448", (448, 448), (448, 448), 14, 2, 15),
    "720x1280 -> 448x448": ("720x1280 -> 448x448", (720, 1280), (448, 448), 14, 2, 15),
    "1080x1920 -> 448x448": ("1080x1920 -> 448x448", (1080, 1920), (448, 448), 14, 2, 15),
    "2160x3840 -> 448x448": ("2160x3840 -> 448x448", (2160, 3840), (448, 448), 14, 2, 15),
    "720x1280 -> 448x448, patch 16": ("720x1280 -> 448x448, patch 16", (720, 1280), (448, 448), 16, 2, 15),
    "720x1280 -> 336x602, MiniCPM": ("720x1280 -> 336x602, MiniCPM", (720, 1280), (336, 602), 14, 1, 23),
}


def torch_ops(frame, size, patch, merge, mean, std):
    """Float resize, rounded to bytes as the published processors do."""
    image = interpolate(frame.permute(2, 0, 1)[None].float(), size, mode="bicubic", antialias=True)[0]
    values = (image.round().clamp(0, 255) / 255 - mean) / std
    h, w = size
    shape = (3, h // (patch * merge), merge, patch, w // (patch * merge), merge, patch)
    return values.view(shape).permute(1, 4, 2, 5, 0, 3, 6).reshape(-1, 3 * patch * patch).bfloat16()


def refcheck(*args):
    """The bytes of the twin, to the bit."""
    assert torch.equal(preprocess(*args), reference_preprocess(*args))


def cases(what, frame_size, size, patch, merge, bits):
    assert implementation("cuda") == "cuda", "build the CUDA ops first: pip install --no-build-isolation --no-deps -e ."
    height, width = frame_size
    random = torch.Generator("cuda").manual_seed(0)
    batch = torch.randint(0, 256, (8 if height > 1500 else 24, height, width, 3), generator=random, device="cuda", dtype=torch.uint8)
    frames = list(batch)
    args = (size, MEAN, STD, patch, merge, torch.bfloat16, bits)
    # Every byte of the frame once in, every element once out.
    floor = height * width * 3 + 2 * 3 * size[0] * size[1]
    yield Case(what, "cuda", [partial(preprocess, frame, *args) for frame in frames], floor, partial(refcheck, frames[0], *args))
    if height == 720 and patch == 14 and merge == 2:
        yield Case(f"{what}, 8 frames", "cuda", [partial(preprocess, batch[:8].contiguous(), *args)], 8 * floor)
        nv12 = [frame.flatten()[: height * width * 3 // 2].view(height * 3 // 2, width) for frame in frames]
        yield Case(f"{what}, NV12", "cuda", [partial(preprocess, frame, *args, "bt709") for frame in nv12], floor - height * width * 3 // 2)
    if bits == 15 and height in (448, 720) and patch == 14:
        levels = (torch.tensor(values, device="cuda").view(3, 1, 1) for values in (MEAN, STD))
        arguments = (size, patch, merge, *levels)
        for label, op in (("torch ops", torch_ops), ("torch.compile", torch.compile(torch_ops, dynamic=False))):
            yield Case(what, label, [partial(op, frame, *arguments) for frame in frames], floor)


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
