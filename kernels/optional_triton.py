"""Triton where it is installed. Without it the kernels below are plain functions that nobody calls, and every op runs its twin."""

from types import SimpleNamespace

try:
    import triton
    import triton.language as tl
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.language.nvidia import hopper
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as TileDescriptor
    from triton.tools.tensor_descriptor import TensorDescriptor

    jit = triton.jit
except ImportError:
    triton = hopper = TensorDescriptor = TileDescriptor = None
    tl = gl = SimpleNamespace(constexpr=None)

    def jit(function=None, **options):
        return jit if function is None else function

    gluon = SimpleNamespace(jit=jit)


def triton_or_twin(device_type):
    """What computes a Triton op on a device of that type: "triton" or "pytorch"."""
    return "triton" if triton is not None and device_type == "cuda" else "pytorch"
