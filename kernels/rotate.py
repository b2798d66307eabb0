"""Sink keys forward from their pristine copy: keys rotated by a position difference, one rounding.

    k' = k·cos(delta·w) + rotate_half(k)·sin(delta·w)

Rope is relative, so moving every component of a text token's position by one delta is one rotation of all pairs, for 1-D rope and both
kinds of M-RoPE. Always from the pristine copy: rotating a rounded result again drifts.
Shapes: keys (L, S, K, D); cos, sin (S, D/2) float32 of the deltas; returns (L, S, K, D). Floor: 2·L·S·K·D·size bytes.
"""

import torch


def reference_rotate(keys, cos, sin):
    """Plain twin of `rotate`."""
    first, second = keys.float().chunk(2, dim=-1)
    cos, sin = cos[None, :, None], sin[None, :, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(keys.dtype)


def rotate(keys, cos, sin):
    """Rotate keys (L, S, K, D) by the angles of S tokens (cos, sin: (S, D/2)); same shape and dtype back."""
    assert cos.shape == sin.shape == (keys.shape[1], keys.shape[-1] // 2), "one row of angles a token"
    return reference_rotate(keys, cos, sin)


def implementation(device_type):
    """What computes this op on a device of that type."""
    return "pytorch"
