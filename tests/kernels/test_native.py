"""The compiled ops are there, are used, and build for Hopper without spilling a register."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from evostreaming.engine.implementations import implementations
from evostreaming.kernels import append, gate, native, preprocess

ROOT = Path(__file__).parents[2]
OPS = (append, gate, preprocess)
SANITIZER = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")


def test_the_cpu_extension_was_built_and_every_op_uses_it():
    assert native.LANGUAGE.get("cpu") == "c++", "_C*.so is missing: run `python setup.py build_ext --inplace`"
    found = implementations("cpu")
    assert {name: found[name] for name in ("append", "gate", "preprocess")} == {"append": "c++", "gate": "c++", "preprocess": "c++"}


@pytest.mark.gpu
def test_the_cuda_extension_was_built_and_every_op_uses_it():
    assert [op.implementation("cuda") for op in OPS] == ["cuda"] * 3, "_C_cuda*.so is missing: run `python setup.py build_ext --inplace`"


def test_without_the_extension_the_twins_compute_and_say_so(monkeypatch):
    rows, weight, head = torch.randn(2, 64), torch.randn(64), torch.randn(90, 64)
    expected = gate.reference_gate(rows, weight, 1e-6, head, 3, None, "softmax", 0.5)
    monkeypatch.setattr(native, "LANGUAGE", {})
    assert native.load("_never_built") is False
    assert [op.implementation("cpu") for op in OPS] == ["pytorch"] * 3
    assert all(torch.equal(got, want) for got, want in zip(gate.gate(rows, weight, 1e-6, head, 3), expected))


def test_a_wanted_gradient_takes_the_twin():
    qkv = torch.randn(3, 6 * 16, requires_grad=True)
    cos, sin, pages = torch.ones(3, 8), torch.zeros(3, 8), torch.zeros(2, 1, 128, 1, 16)
    q = append.append(qkv, cos, sin, pages[0], pages[1], torch.full((3,), -1))
    q.sum().backward()
    assert qkv.grad[:, : 4 * 16].eq(1).all()


def test_what_does_not_fit_the_op_is_refused_by_name():
    rows, weight, head = torch.randn(2, 64), torch.randn(64), torch.randn(90, 64)
    with pytest.raises(RuntimeError, match="weight has another dtype"):
        gate.gate(rows, weight.double(), 1e-6, head, 3)
    with pytest.raises(RuntimeError, match="rows of the head"):
        gate.gate(rows, weight, 1e-6, head, 90)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
def test_the_cuda_file_compiles_for_sm_90a_without_spills_and_with_tensor_cores(tmp_path):
    include = Path(torch.__file__).parent / "include"
    nvcc = [
        *("nvcc", "-O3", "-std=c++17", "--expt-relaxed-constexpr", "-gencode=arch=compute_90a,code=sm_90a", "-Xptxas", "-v", "-DUSE_CUDA"),
        *("-DTORCH_TARGET_VERSION=0x020b000000000000ULL", "-isystem", str(include), "-I", str(ROOT / "csrc")),
        *("--keep", "--keep-dir", str(tmp_path), "-c", str(ROOT / "csrc" / "ops_cuda.cu"), "-o", str(tmp_path / "ops.o")),
    ]
    done = subprocess.run(nvcc, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    log = done.stderr
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    shared = [int(size) for size in re.findall(r"(\d+) bytes smem", log)]
    assert len(spills) >= 30
    assert set(spills) == {("0", "0", "0")}
    assert max(shared) <= 48 * 1024
    ptx = next(tmp_path.glob("*.ptx")).read_text()
    assert "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32" in ptx
    assert "dp2a.lo.s32.u32" in ptx


EVERY_KERNEL = """
import sys
import torch
from evostreaming.kernels.append import append
from evostreaming.kernels.gate import gate
from evostreaming.kernels.preprocess import preprocess
for dtype in (torch.bfloat16, torch.float32):
    draw = lambda *shape: torch.randn(*shape, device="cuda").to(dtype)
    pages, slots = torch.zeros(2, 3, 128, 4, 128, device="cuda", dtype=dtype), torch.arange(100, 373, device="cuda")
    slots[5] = -1
    append(draw(273, 36 * 128), *torch.randn(2, 273, 64, device="cuda"), *pages, slots, draw(128), draw(128), bias=draw(36 * 128))
    for streams in (1, 9, 33):
        for mode in ("pair", "softmax", "greedy"):
            resting = torch.arange(streams, dtype=torch.int32, device="cuda") % 3
            for width in (96, 544):
                gate(draw(streams, width), draw(width), 1e-6, draw(1003, width), 1002, 5, mode, resting=resting)
    for tokens in (1, 8):
        torch.ops.evostreaming.gemv(draw(tokens, 608), draw(1003, 608))
        torch.ops.evostreaming.gemv_fp8(draw(tokens, 624).bfloat16(), draw(1003, 624).to(torch.float8_e4m3fn), draw(1003).float())
    for bits in (15, 23):
        for shape, color in (((130, 77, 3), None), ((180, 50), "bt601")):
            frame = torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
            preprocess(frame, (56, 84), (0.5,) * 3, (0.5,) * 3, 14, 2, dtype, bits, color)
if sys.argv[1] == "memcheck" and torch.cuda.get_device_capability()[0] == 9:  # racecheck knows neither its copies nor its clusters
    from evostreaming.kernels.gated_gemm import Way, launch_gated_gemm
    x, weight, bias = draw(150, 648).bfloat16(), draw(272, 648).bfloat16(), draw(272).bfloat16()
    for way in (Way(72), Way(136, 128, 2, 2), Way(136, 192, 1, 2)):
        launch_gated_gemm(x, weight, way, bias)
torch.cuda.synchronize()
"""


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(SANITIZER is None, reason="no compute-sanitizer on this machine")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_no_kernel_touches_memory_that_is_not_its_own_and_none_races(tool):
    command = [SANITIZER, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", EVERY_KERNEL, tool]
    # Without PyTorch's cache every tensor is an allocation of its own, so a read beside it shows.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
