"""Which code every op of the step runs on a device: its plain PyTorch twin, Triton, CUDA or C++."""

import pkgutil
from importlib import import_module

from .. import kernels


def implementations(device_type="cpu"):
    """`{op: "pytorch" | "triton" | "cuda" | "c++"}` for every op file of `evostreaming.kernels`, asked on this machine.

    device_type: `"cpu"` or `"cuda"`. A file without an `implementation(device_type)` function is a part of another op.
    """
    found = {}
    for file in sorted(pkgutil.iter_modules(kernels.__path__), key=lambda file: file.name):
        ask = getattr(import_module(f"{kernels.__name__}.{file.name}"), "implementation", None)
        if ask is not None:
            found[file.name] = ask(device_type)
    return found
