"""The gated activation of the MLP: out = silu(gate) * up, in float32 with one rounding.

Shapes: gate_up (T, 2·I) with the gate in the first half, perhaps as a `Product`; out (T, I), in fp8 with one scale a row when asked for (as
`quantize` does).
Floor: 3·T·I·size bytes, about 6·T·I FLOPs, so it is bound by bytes.
"""

import torch
import torch.nn.functional as F

from .optional_triton import jit, tl, triton
from .optional_triton import triton_or_twin as implementation
from .product import Product, load_wide, parts
from .quantize import WIDEST, Quantized, empty_quantized, reference_quantize, row_peak

BLOCK = 1024


def reference_swiglu(gate_up, quantized=False):
    """Plain twin: (T, 2·I) -> (T, I) in the dtype of `gate_up`; `Quantized` if asked for."""
    wide, values = (gate_up.wide(), gate_up.values) if isinstance(gate_up, Product) else (gate_up.float(), gate_up)
    gate, up = wide.chunk(2, dim=-1)
    out = F.silu(gate) * up
    return reference_quantize(out) if quantized else out.to(values.dtype)


@jit
def _gated(gate_up, token_scales, column_scales, shift, row, columns, width):
    inside = columns < width
    gate = load_wide(gate_up, token_scales, column_scales, shift, row, columns, inside)
    up = load_wide(gate_up, token_scales, column_scales, shift, row, width + columns, inside)
    return gate / (1.0 + tl.exp(-gate)) * up


@jit
def _swiglu_kernel(gate_up, out, width, token_scales, column_scales, shift, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    wide = _gated(gate_up + row * 2 * width, token_scales, column_scales, shift, row, columns, width)
    tl.store(out + row * width + columns, wide.to(out.dtype.element_ty), columns < width)


@jit
def _quantized_kernel(gate_up, values, scales, width, token_scales, column_scales, shift, MAIN: tl.constexpr, REST: tl.constexpr):
    """One row, all of it in registers: a power of two of its columns, and the rest as another."""
    row = tl.program_id(0).to(tl.int64)
    gate_up += row * 2 * width
    values += row * width
    columns, others = tl.arange(0, MAIN), MAIN + tl.arange(0, max(REST, 1))
    main = _gated(gate_up, token_scales, column_scales, shift, row, columns, width)
    if REST > 0:
        rest = _gated(gate_up, token_scales, column_scales, shift, row, others, width)
    peak = row_peak(main)
    if REST > 0:
        peak = tl.maximum(peak, row_peak(rest), propagate_nan=tl.PropagateNan.ALL)
        tl.store(values + others, (rest * (448.0 / peak)).to(tl.float8e4nv), others < width)
    tl.store(values + columns, (main * (448.0 / peak)).to(tl.float8e4nv), columns < width)
    tl.store(scales + row, peak / 448.0)


def split_row(width):
    """Columns of a row as two powers of two, the second zero if one is enough: 18944 -> (16384, 4096)."""
    main = 1 << (width.bit_length() - 1)
    return main, triton.next_power_of_2(width - main) if width > main else 0


def launch_swiglu(gate_up, quantized=False):
    """The Triton kernels: one program for BLOCK columns of a row; for a whole row where its peak has to be known."""
    gate_up, *finish = parts(gate_up)
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    if quantized:
        out = empty_quantized(gate_up, width)
        main, rest = split_row(width)
        _quantized_kernel[(rows,)](gate_up, *out, width, *finish, MAIN=main, REST=rest, num_warps=min(16, max(1, main // 512)))
        return out
    out = gate_up.new_empty(rows, width)
    _swiglu_kernel[(triton.cdiv(width, BLOCK), rows)](gate_up, out, width, *finish, BLOCK=BLOCK, num_warps=4)
    return out


@torch.library.custom_op("evostreaming::swiglu", mutates_args=())
def swiglu_op(
    gate_up: torch.Tensor, quantized: bool, token_scales: torch.Tensor | None = None, column_scales: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
) -> list[torch.Tensor]:  # fmt: skip
    """`swiglu` as an op of PyTorch, so that compilers take it whole: [out], then its scales where it has such. The last three are those of
    a `Product`."""
    x = gate_up if token_scales is None else Product(gate_up, token_scales, column_scales, shift)
    # 65,535 rows are all that one launch takes, WIDEST columns all that one program holds.
    wide = quantized and gate_up.shape[1] > 2 * WIDEST
    if wide or not 0 < gate_up.shape[0] < 2**16 or implementation(gate_up.device.type) == "pytorch":
        out = reference_swiglu(x, quantized)
    else:
        out = launch_swiglu(x, quantized)
    return list(out) if quantized else [out]


@swiglu_op.register_fake
def fake_swiglu(gate_up, quantized, token_scales=None, column_scales=None, shift=None):
    width = gate_up.shape[1] // 2
    return list(empty_quantized(gate_up, width)) if quantized else [gate_up.new_empty(gate_up.shape[0], width)]


def swiglu(gate_up, quantized=False):
    """silu(first half) * second half: (T, 2·I), a tensor or a `Product`, -> (T, I) in the dtype of `gate_up`, or `Quantized`."""
    values, *finish = parts(gate_up)
    assert values.dim() == 2 and values.shape[1] % 2 == 0, f"gate and up side by side, (T, 2·I): got {tuple(values.shape)}"
    assert values.is_contiguous(), "rows stand one after another"
    if implementation(values.device.type) == "pytorch":  # not through the op: the twin has gradients
        return reference_swiglu(gate_up, quantized)
    out = swiglu_op(values, quantized, *finish)
    return Quantized(*out) if quantized else out[0]
