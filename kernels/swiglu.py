"""The gated activation of the MLP: out = silu(gate) * up, in float32 with one rounding.

Shapes: gate_up (T, 2·I) with the gate in the first half; out (T, I).
Floor: 3·T·I·size bytes, about 6·T·I FLOPs, so it is bound by bytes.
"""

import torch
import torch.nn.functional as F

from .optional_triton import jit, tl, triton
from .optional_triton import triton_or_twin as implementation

BLOCK = 1024


def reference_swiglu(gate_up):
    """Plain twin: (T, 2·I) -> (T, I) in the dtype of `gate_up`."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


@jit
def _swiglu_kernel(gate_up, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < width
    gate = tl.load(gate_up + row * 2 * width + columns, inside, 0.0).to(tl.float32)
    up = tl.load(gate_up + (row * 2 + 1) * width + columns, inside, 0.0).to(tl.float32)
    tl.store(out + row * width + columns, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), inside)


def launch_swiglu(gate_up):
    """The Triton kernel, one program for BLOCK columns of a row."""
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    out = torch.empty((rows, width), dtype=gate_up.dtype, device=gate_up.device)
    _swiglu_kernel[(triton.cdiv(width, BLOCK), rows)](gate_up, out, width, BLOCK=BLOCK, num_warps=4)
    return out


def swiglu(gate_up):
    """silu(first half) * second half: (T, 2·I) -> (T, I)."""
    assert gate_up.dim() == 2 and gate_up.shape[1] % 2 == 0, f"gate and up side by side, (T, 2·I): got {tuple(gate_up.shape)}"
    assert gate_up.is_contiguous(), "rows stand one after another"
    # 65,535 rows are all that one launch takes.
    if not 0 < gate_up.shape[0] < 2**16 or implementation(gate_up.device.type) == "pytorch":
        return reference_swiglu(gate_up)
    return launch_swiglu(gate_up)
