"""preprocess against the usual PyTorch pipeline on the GPU (antialiased bicubic, round, normalize, permute), eager and compiled.

    python -m benchmarks.bench_preprocess [--refcheck]

Frames take turns so that each comes from memory.
"""

import argparse
from functools import partial

import torch
from torch.nn.functional import interpolate

from evostreaming.kernels.preprocess import implementation, preprocess, reference_preprocess

from .timing import microseconds, report

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# frame, size that the model sees, patch, merge, weight bits
SHAPES = {
    "448x448 -> 448x448": ((448, 448), (448, 448), 14, 2, 15),
    "720x1280 -> 448x448": ((720, 1280), (448, 448), 14, 2, 15),
    "1080x1920 -> 448x448": ((1080, 1920), (448, 448), 14, 2, 15),
    "2160x3840 -> 448x448": ((2160, 3840), (448, 448), 14, 2, 15),
    "720x1280 -> 448x448, patch 16": ((720, 1280), (448, 448), 16, 2, 15),
    "720x1280 -> 336x602, MiniCPM": ((720, 1280), (336, 602), 14, 1, 23),
}


def torch_ops(frame, size, patch, merge, mean, std):
    """Float resize, rounded to bytes as the published processors do."""
    image = interpolate(frame.permute(2, 0, 1)[None].float(), size, mode="bicubic", antialias=True)[0]
    values = (image.round().clamp(0, 255) / 255 - mean) / std
    h, w = size
    shape = (3, h // (patch * merge), merge, patch, w // (patch * merge), merge, patch)
    return values.view(shape).permute(1, 4, 2, 5, 0, 3, 6).reshape(-1, 3 * patch * patch).bfloat16()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refcheck", action="store_true", help="compare with the plain twin before timing")
    parser.add_argument("--alone", action="store_true", help="time this op only, not its peers")
    options = parser.parse_args()
    assert implementation("cuda") == "cuda", "build the CUDA ops first: pip install --no-build-isolation --no-deps -e ."
    random = torch.Generator("cuda").manual_seed(0)
    mean, std = (torch.tensor(values, device="cuda").view(3, 1, 1) for values in (MEAN, STD))
    compiled = torch.compile(torch_ops, dynamic=False)
    for name, ((height, width), size, patch, merge, bits) in SHAPES.items():
        batch = torch.randint(0, 256, (8 if height > 1500 else 24, height, width, 3), generator=random, device="cuda", dtype=torch.uint8)
        frames = list(batch)
        args = (size, MEAN, STD, patch, merge, torch.bfloat16, bits)
        if options.refcheck:
            assert torch.equal(preprocess(frames[0], *args), reference_preprocess(frames[0], *args))
        # Every byte of the frame once in, every element once out.
        size_bytes = height * width * 3 + 2 * 3 * size[0] * size[1]
        report(name, "cuda", microseconds([partial(preprocess, frame, *args) for frame in frames]), size_bytes)
        if bits == 15 and height < 2000 and patch == 14 and not options.alone:
            arguments = (size, patch, merge, mean, std)
            for label, op in (("torch ops", torch_ops), ("torch.compile", compiled)):
                report(name, label, microseconds([partial(op, frame, *arguments) for frame in frames]), size_bytes)
        if height == 720 and patch == 14 and merge == 2:
            eight = batch[:8].contiguous()
            report(f"{name}, 8 frames", "cuda", microseconds([partial(preprocess, eight, *args)]), 8 * size_bytes)
            nv12 = [frame.flatten()[: height * width * 3 // 2].view(height * 3 // 2, width) for frame in frames]
            time = microseconds([partial(preprocess, frame, *args, "bt709") for frame in nv12])
            report(f"{name}, NV12", "cuda", time, size_bytes - height * width * 3 // 2)


if __name__ == "__main__":
    main()
