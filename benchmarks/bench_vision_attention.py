"""vision_attention against PyTorch's flash varlen kernel, in one process; both start from one projection's output.

    python -m benchmarks.bench_vision_attention [--refcheck]

"with rope" adds the 2-D rotation: a kernel of the op here, a compiled PyTorch function before the peer's kernel.
"""

import argparse
from functools import partial

import torch
from torch.nn.attention.varlen import varlen_attn

from evostreaming.kernels.vision_attention import reference_vision_attention, vision_attention

from .timing import microseconds

SHAPES = {  # heads, head dim, length of a segment, segments
    "windows of 64, Qwen2.5-VL": (16, 80, 64, 16),
    "frame of 1024, Qwen2.5-VL": (16, 80, 1024, 1),
    "8 frames of 1024, Qwen2.5-VL": (16, 80, 1024, 8),
    "frame of 784, Qwen3-VL": (16, 72, 784, 1),
    "frame of 1025, InternViT": (16, 64, 1025, 1),
}


def rotated(qkv, cos, sin):
    """Queries and keys of (T, 3, H, D) rotated in float32."""
    first, second = qkv[:, :2].float().chunk(2, -1)
    cos, sin = cos[:, None, None], sin[:, None, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(qkv.dtype)


def flash(qkv, rotation, starts, length):
    """PyTorch's flash kernel on packed segments, the rotation first where there is one."""
    qk = qkv if rotation is None else rotation(qkv)
    return varlen_attn(qk[:, 0], qk[:, 1], qkv[:, 2], starts, starts, length, length)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--refcheck", action="store_true", help="compare with float32 before timing")
    options = parser.parse_args()
    compiled = torch.compile(rotated, dynamic=False)
    for what, (heads, dim, length, segments) in SHAPES.items():
        tokens = length * segments
        qkv = torch.randn(tokens, 3, heads, dim, device="cuda", dtype=torch.bfloat16)
        starts = torch.arange(0, tokens + 1, length, device="cuda", dtype=torch.int32)
        angle = torch.rand(tokens, dim // 2, device="cuda") * 6
        cos, sin = angle.cos(), angle.sin()
        if options.refcheck:
            truth = reference_vision_attention(qkv.float(), starts, cos, sin)
            error = ((vision_attention(qkv, starts, length, cos, sin).float() - truth).norm() / truth.norm()).item()
            assert error < 1e-2, error

        pairs = {
            "": (partial(vision_attention, qkv, starts, length), partial(flash, qkv, None, starts, length)),
            " with rope": (
                partial(vision_attention, qkv, starts, length, cos, sin),
                partial(flash, qkv, partial(compiled, cos=cos, sin=sin), starts, length),
            ),
        }
        for suffix, (ours, theirs) in pairs.items():
            ours, theirs = microseconds([ours]), microseconds([theirs])
            rate = 4 * heads * dim * segments * length**2 / ours / 1e6
            print(f"{what + suffix:40} {ours:8.1f} µs {rate:6.0f} TFLOP/s; flash varlen {theirs:8.1f} µs, x{ours / theirs:.2f}", flush=True)


if __name__ == "__main__":
    main()
