"""The Triton kernels in Triton's interpreter, one process a module: a kernel that writes out of bounds may kill its process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULES = [
    "test_append_attention", "test_decode_attention", "test_gelu", "test_norm", "test_quantize", "test_recolor", "test_rotate",
    "test_swiglu", "test_vision_attention",
]  # fmt: skip


@pytest.mark.parametrize("module", MODULES)
def test_kernels_are_right_in_the_interpreter(module):
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", str(HERE / f"{module}.py")]
    run = subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True, cwd=HERE.parents[1])
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
