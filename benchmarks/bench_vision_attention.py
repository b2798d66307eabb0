"""vision_attention against cuDNN, PyTorch's flash kernels, FlashAttention-3 and flash-attn in one process, from one projection's output.

    python -m benchmarks.bench_vision_attention [--refcheck] [--alone]

The 2-D rotation is part of the op; before the peers a compiled PyTorch function does it. "no rope" leaves it out for all. "batched" peers
take segments of one length as a batch; they cannot do a ragged frame. FlashAttention-3 comes from where `fa3.py` finds it.
"""

from functools import partial
from importlib.util import find_spec

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention

from evostreaming.kernels.vision_attention import reference_vision_attention, vision_attention

from . import fa3
from .cases import Case, main, speed_of

SHAPES = {
    what: (what, *arguments)
    for what, arguments in {  # heads, head dim, length of a segment, segments
        "16 windows of 64, 16 x 80": (16, 80, 64, 16),
        "128 windows of 64, 16 x 80": (16, 80, 64, 128),
        "frame of 1024, 16 x 80": (16, 80, 1024, 1),
        "8 frames of 1024, 16 x 80": (16, 80, 1024, 8),
        "frame of 784, 16 x 72": (16, 72, 784, 1),
        "frame of 1025, 16 x 64": (16, 64, 1025, 1),
    }.items()
}


@partial(torch.compile, dynamic=True)
def rotated(qkv, cos, sin):
    """Queries and keys of (T, 3, H, D) rotated in float32: (T, 2, H, D)."""
    first, second = qkv[:, :2].float().chunk(2, -1)
    cos, sin = cos[:, None, None], sin[:, None, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(qkv.dtype)


def flash(q, k, v, starts, length):
    return varlen_attn(q, k, v, starts, starts, length, length)


def batched(q, k, v, starts, length):
    """PyTorch's choice over segments of one length as a batch."""
    return scaled_dot_product_attention(*(x.unflatten(0, (-1, length)).transpose(1, 2) for x in (q, k, v)))


def cudnn(q, k, v, starts, length):
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return batched(q, k, v, starts, length)


def flash_attn(q, k, v, starts, length):
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func(q, k, v, starts, starts, length, length)


def fa3_ragged(q, k, v, starts, length):
    return fa3.ragged(q, k, v, torch.empty(v.shape, dtype=v.dtype, device=v.device), starts, length)


def peers():
    found = {"torch flash varlen": flash, "torch sdpa, batched": batched, "cuDNN, batched": cudnn}
    if fa3.available():
        found["FA3 varlen"] = fa3_ragged
    if find_spec("flash_attn"):
        found["flash-attn varlen"] = flash_attn
    return found


def attend(attention, qkv, starts, length, *angles):
    """A peer's attention behind the rotation, where there is one."""
    q, k = (rotated(qkv, *angles) if angles else qkv)[:, :2].unbind(1)
    return attention(q, k, qkv[:, 2], starts, length)


def refcheck(qkv, starts, length, *angles):
    """Norm-relative error to float32; raises AssertionError above bf16 rounding."""
    truth = reference_vision_attention(qkv.float(), starts, *angles)
    error = ((vision_attention(qkv, starts, length, *angles).float() - truth).norm() / truth.norm()).item()
    assert error < 1e-2, error


def cases(what, heads, dim, length, segments):
    tokens = length * segments
    qkv = torch.randn(tokens, 3, heads, dim, device="cuda", dtype=torch.bfloat16)
    starts = torch.arange(0, tokens + 1, length, device="cuda", dtype=torch.int32)
    angle = torch.rand(tokens, dim // 2, device="cuda") * 6
    work = {"size": 4 * 2 * tokens * heads * dim, "flops": 4 * heads * dim * segments * length**2}
    for suffix, angles in (("", (angle.cos(), angle.sin())), (", no rope", ())):
        arguments = (qkv, starts, length, *angles)
        yield Case(what + suffix, "triton", [partial(vision_attention, *arguments)], check=partial(refcheck, *arguments), **work)
        for name, attention in peers().items():
            yield Case(what + suffix, name, [partial(attend, attention, qkv, starts, length, *angles)], **work)


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
