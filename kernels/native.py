"""The compiled ops, `torch.ops.evostreaming.*`: found beside the package, loaded once, absent without harm.

`_C` holds the schemas and the CPU code, `_C_cuda` the CUDA code. Both speak PyTorch's stable ABI, so one build serves torch 2.11 and later.
Where one is missing the plain twins compute; `implementation(device_type)` of every op and `evostreaming info` say so.
"""

from importlib.resources import files

import torch

PACKAGE = files(__package__.rpartition(".")[0])


def load(name):
    """Load `<name>.*.so` of the package; False when it was never built. Raises OSError for one that does not fit this torch."""
    for file in sorted(entry for entry in PACKAGE.iterdir() if entry.name.startswith(f"{name}.") and entry.name.endswith(".so")):
        torch.ops.load_library(str(file))
        return True
    return False


LANGUAGE = {}
if load("_C"):
    LANGUAGE["cpu"] = "c++"
    if torch.version.cuda and load("_C_cuda"):
        LANGUAGE["cuda"] = "cuda"


def compiled(tensor):
    """Whether the compiled ops take this tensor: its device has them, and no gradient is wanted, which only the twins give."""
    return tensor.device.type in LANGUAGE and not (tensor.requires_grad and torch.is_grad_enabled())


def language(device_type):
    """"c++", "cuda" or, where nothing was compiled, "pytorch"."""
    return LANGUAGE.get(device_type, "pytorch")


def fake(op):
    """Decorator: what `op` returns for tensors without data, for torch.compile and the like. Only a compiled op takes one."""
    return torch.library.register_fake(f"evostreaming::{op}") if LANGUAGE else lambda function: function
