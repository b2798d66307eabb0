"""The gated activation of the MLP: out = silu(gate) * up, in float32 with one rounding.

Shapes: gate_up (T, 2·I) with the gate in the first half; out (T, I).
Floor: 3·T·I·size bytes, about 6·T·I FLOPs, so it is bound by bytes.
"""

import torch.nn.functional as F


def reference_swiglu(gate_up):
    """Plain twin: (T, 2·I) -> (T, I) in the dtype of `gate_up`."""
    gate, up = gate_up.float().chunk(2, dim=-1)
    return (F.silu(gate) * up).to(gate_up.dtype)


def swiglu(gate_up):
    """silu(first half) * second half: (T, 2·I) -> (T, I)."""
    assert gate_up.shape[-1] % 2 == 0, f"gate and up must be of one width, got {gate_up.shape[-1]} columns"
    return reference_swiglu(gate_up)


def implementation(device_type):
    """What computes this op on a device of that type."""
    return "pytorch"
