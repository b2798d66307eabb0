"""Attention of the vision towers: packed segments (frames or windows), each token sees its own segment only.

    q, k = x·cos + rotate_half(x)·sin           (pairs (i, i + D/2), float32, one rounding; none where cos is None)
    out  = softmax(q·k / sqrt(D)) · v           (within a segment, float32 accumulation)

Shapes: qkv (T, 3, H, D) as the projection leaves it, its bias added by that product; starts (S + 1,) int32, segment s is rows
starts[s]..starts[s + 1]; cos, sin (T, D/2) float32; out (T, H, D). Rows from starts[S] on are padding and come out zero.
Head dims 72 and 80 run as 64 and a rest of 16: no padding to 128. Floor: 4·H·D·sum(n²) FLOPs; 4·T·H·D·size bytes.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F

from .optional_triton import jit, tl, triton
from .optional_triton import triton_or_twin as implementation

LOG2_E = 1.4426950408889634


def reference_vision_attention(qkv, starts, cos=None, sin=None):
    """Plain twin; reads `starts` on the host."""
    q, k, v = qkv.unbind(1)
    if cos is not None:
        q, k = (_rotated(x, cos, sin) for x in (q, k))
    out = torch.zeros_like(v, memory_format=torch.contiguous_format)
    bounds = starts.tolist()
    for begin, end in pairwise(bounds):
        parts = (x[begin:end].transpose(0, 1)[None] for x in (q, k, v))
        out[begin:end] = F.scaled_dot_product_attention(*parts)[0].transpose(0, 1)
    return out


def _rotated(x, cos, sin):
    first, second = x.float().chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


@jit
def _rotate_kernel(qkv, cos, sin, out, HEADS: tl.constexpr, D: tl.constexpr, PARTS: tl.constexpr, HALF: tl.constexpr):
    """Rotate the queries and keys of one token: 2·HEADS parts of D columns, out of qkv (T, 3, H, D) into out (T, 2, H, D)."""
    token = tl.program_id(0)
    part, pair = tl.arange(0, PARTS)[:, None], tl.arange(0, HALF)[None, :]
    half: tl.constexpr = D // 2
    inside = (part < 2 * HEADS) & (pair < half)
    c, s = tl.load(cos + token * half + pair, pair < half, 0.0), tl.load(sin + token * half + pair, pair < half, 0.0)
    first = tl.load(qkv + (token * 3 * HEADS + part) * D + pair, inside, 0.0).to(tl.float32)
    second = tl.load(qkv + (token * 3 * HEADS + part) * D + pair + half, inside, 0.0).to(tl.float32)
    place = out + (token * 2 * HEADS + part) * D + pair
    tl.store(place, (first * c - second * s).to(out.dtype.element_ty), inside)
    tl.store(place + half, (second * c + first * s).to(out.dtype.element_ty), inside)


@jit
def _columns(x, rows, stride, live, column, D: tl.constexpr):
    """Some columns of a head's rows, zero past D and past the segment."""
    return tl.load(x + rows[:, None] * stride + column[None, :], live[:, None] & (column < D)[None, :], 0.0)


@jit(do_not_specialize=("tokens", "segments"))
def _vision_kernel(q, k, v, out, starts, tokens, segments, stride, v_stride, scale, HEADS: tl.constexpr, D: tl.constexpr,
                   MAIN: tl.constexpr, REST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, STAGES: tl.constexpr):
    block, head, segment = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    begin = tl.load(starts + segment)
    main = tl.arange(0, MAIN)
    if REST > 0:
        rest = MAIN + tl.arange(0, REST)
    if segment == segments:
        for first in range(begin + block * BLOCK_M, tokens, tl.num_programs(0) * BLOCK_M):
            rows = first + tl.arange(0, BLOCK_M)
            place = out + (rows[:, None] * HEADS + head) * D
            zero = tl.zeros([BLOCK_M, MAIN], out.dtype.element_ty)
            tl.store(place + main[None, :], zero, (rows < tokens)[:, None] & (main < D)[None, :])
            if REST > 0:
                zero_rest = tl.zeros([BLOCK_M, REST], out.dtype.element_ty)
                tl.store(place + rest[None, :], zero_rest, (rows < tokens)[:, None] & (rest < D)[None, :])
        return
    end = tl.load(starts + segment + 1)
    if begin + block * BLOCK_M >= end:
        return
    rows = begin + block * BLOCK_M + tl.arange(0, BLOCK_M)
    live = rows < end
    block_q = _columns(q + head * D, rows, stride, live, main, D)
    acc = tl.zeros([BLOCK_M, MAIN], tl.float32)
    if REST > 0:
        q_rest = _columns(q + head * D, rows, stride, live, rest, D)
        acc_rest = tl.zeros([BLOCK_M, REST], tl.float32)
    peak = tl.full([BLOCK_M], -1e30, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for first in tl.range(begin, end, BLOCK_N, num_stages=STAGES):
        them = first + tl.arange(0, BLOCK_N)
        seen = them < end
        score = tl.dot(block_q, _columns(k + head * D, them, stride, seen, main, D).T)
        if REST > 0:
            score = tl.dot(q_rest, _columns(k + head * D, them, stride, seen, rest, D).T, score)
        block_v = _columns(v + head * D, them, v_stride, seen, main, D)
        score = tl.where(seen[None, :], score, float("-inf"))
        higher = tl.maximum(peak, tl.max(score, 1) * scale)
        weight = tl.exp2(score * scale - higher[:, None])
        shrink = tl.exp2(peak - higher)
        total = total * shrink + tl.sum(weight, 1)
        acc = tl.dot(weight.to(block_v.dtype), block_v, acc * shrink[:, None])
        if REST > 0:
            v_rest = _columns(v + head * D, them, v_stride, seen, rest, D)
            acc_rest = tl.dot(weight.to(v_rest.dtype), v_rest, acc_rest * shrink[:, None])
        peak = higher
    place = out + (rows[:, None] * HEADS + head) * D
    tl.store(place + main[None, :], (acc / total[:, None]).to(out.dtype.element_ty), live[:, None] & (main < D)[None, :])
    if REST > 0:
        tl.store(place + rest[None, :], (acc_rest / total[:, None]).to(out.dtype.element_ty), live[:, None] & (rest < D)[None, :])


def split_dim(dim):
    """A head dim as a power of two and a rest that tensor cores take (at least 16 wide, zero-filled): 80 -> (64, 16), 72 -> (64, 16)."""
    main = max(16, 1 << (dim.bit_length() - 1))
    return main, max(16, triton.next_power_of_2(dim - main)) if dim > main else 0


def choose_config(longest):
    """(BLOCK_M, BLOCK_N, warps, stages), measured. With one stage Triton 3.6 gets the rest columns wrong on Hopper."""
    return (64, 64, 4, 2) if longest <= 64 else (128, 64, 8, 3)


def launch_vision_attention(qkv, starts, longest, cos=None, sin=None, config=None):
    """The Triton kernels: one rotates queries and keys, the other attends."""
    tokens, _, heads, dim = qkv.shape
    main, rest = split_dim(dim)
    block_m, block_n, warps, stages = config or choose_config(longest)
    out = torch.empty((tokens, heads, dim), dtype=qkv.dtype, device=qkv.device)
    turned = qkv
    if cos is not None:
        turned = torch.empty((tokens, 2, heads, dim), dtype=qkv.dtype, device=qkv.device)
        parts, half = triton.next_power_of_2(2 * heads), triton.next_power_of_2(dim // 2)
        _rotate_kernel[(tokens,)](qkv, cos, sin, turned, HEADS=heads, D=dim, PARTS=parts, HALF=half, num_warps=4)
    _vision_kernel[(triton.cdiv(longest, block_m), heads, starts.shape[0])](
        turned, turned[:, 1], qkv[:, 2], out, starts, tokens, starts.shape[0] - 1, turned.stride(0), qkv.stride(0), LOG2_E * dim**-0.5,
        HEADS=heads, D=dim, MAIN=main, REST=rest, BLOCK_M=block_m, BLOCK_N=block_n, STAGES=stages, num_warps=warps,
    )
    return out


def vision_attention(qkv, starts, longest, cos=None, sin=None):
    """qkv (T, 3, H, D) -> (T, H, D). `longest`, a host int, bounds the rows of a segment; cos and sin (T, D/2) rotate queries and keys."""
    assert qkv.dim() == 4 and qkv.shape[1] == 3 and qkv.is_contiguous(), f"qkv is (T, 3, H, D), contiguous: got {tuple(qkv.shape)}"
    assert starts.dtype == torch.int32 and starts.dim() == 1, "starts are S + 1 int32 row numbers"
    assert cos is None or (cos.shape == sin.shape == (qkv.shape[0], qkv.shape[3] // 2)), "one row of angles a token"
    half = qkv.dtype in (torch.bfloat16, torch.float16)
    if qkv.shape[0] == 0 or not half or implementation(qkv.device.type) == "pytorch":
        return reference_vision_attention(qkv, starts, cos, sin)
    return launch_vision_attention(qkv, starts, longest, cos, sin)
