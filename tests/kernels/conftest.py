"""Where a Triton kernel is tested: in the interpreter on the CPU (a process of its own, see test_interpreter.py) and on a GPU in bfloat16.

The interpreter is switched on before Triton is imported, and compiles nothing; so its tests and all others exclude each other.
"""

import os
from collections import namedtuple
from itertools import accumulate

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# What one rounding of the weights and one of the result cost; float32 sums in another order.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
Target = namedtuple("Target", "device dtype tolerance")
Paged = namedtuple("Paged", "q keys values table lengths holes starts counts truth")


def pytest_collection_modifyitems(config, items):
    here = [item for item in items if os.path.dirname(__file__) in str(item.path)]
    out = [item for item in here if ("interpreter" in item.keywords) != INTERPRETED]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]


@pytest.fixture(
    params=[
        pytest.param(("cpu", torch.float32), marks=pytest.mark.interpreter, id="interpreter-float32"),
        pytest.param(("cpu", torch.float16), marks=pytest.mark.interpreter, id="interpreter-float16"),
        pytest.param(("cuda", torch.bfloat16), marks=pytest.mark.gpu, id="gpu-bfloat16"),
    ]
)
def target(request):
    """Where and in which dtype a kernel runs, and the error it may have. Memory that nobody wrote reads as NaN."""
    device, dtype = request.param
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield Target(torch.device(device), dtype, TOLERANCE[dtype])
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def error():
    """error(out, truth): norm-relative error; NaN where anything is NaN."""
    return lambda out, truth: ((out.double() - truth.double()).norm() / truth.double().norm().clamp_min(1e-30)).item()


@pytest.fixture
def paged():
    """paged(counts, lengths, holes, heads, kv_heads, dim, device, dtype) -> random streams on shuffled pages, and the float64 truth.

    Slots that hold no token of a stream are NaN.
    """
    from evostreaming.kernels.append_attention import live_slots, reference_append_attention

    def make(counts, lengths, holes, heads, kv_heads, dim, device="cpu", dtype=torch.float32, seed=0):
        generator = torch.Generator().manual_seed(seed)
        wide = max(1, max(-(-length // 128) for length in lengths))
        table = torch.randperm(len(counts) * wide + 3, generator=generator)[: len(counts) * wide].view(-1, wide).int()
        keys = torch.full((len(counts) * wide + 3, 128, kv_heads, dim), torch.nan, dtype=dtype)
        values = keys.clone()
        for row, length in zip(table, lengths):
            logical = torch.arange(length)
            flat = row[logical // 128].long() * 128 + logical % 128
            for pages in (keys, values):
                pages.view(-1, kv_heads, dim)[flat] = torch.randn(length, kv_heads, dim, generator=generator).to(dtype)
        q = torch.randn(sum(counts), heads, dim, generator=generator).to(dtype)
        starts = [0, *accumulate(counts)]
        lengths, holes = torch.tensor(lengths, dtype=torch.int32), torch.tensor(holes, dtype=torch.int32)
        device = torch.device(device)
        slots = [slot.to(device) for slot in live_slots(table, lengths, holes)]
        move = [x.to(device) for x in (q, keys, values, table, lengths, holes, torch.tensor(starts, dtype=torch.int32))]
        truth = reference_append_attention(move[0].double(), move[1].double(), move[2].double(), slots, starts)
        return Paged(*move, counts, truth)

    return make


@pytest.fixture
def compile_for_hopper():
    """compile_for_hopper(kernel, signature, constants, warps, stages, aligned) -> what the assembler made of it for sm_90, with no GPU.

    aligned: names of integers that are multiples of 16, as the launch finds them.
    """
    pytest.importorskip("triton")
    import subprocess
    import tempfile
    from pathlib import Path

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    Build = namedtuple("Build", "shared stack wgmma loads_ahead code")

    def make(kernel, signature, constants, warps=4, stages=2, aligned=()):
        source = ASTSource
        constants = dict.fromkeys(set(kernel.arg_names) - set(signature)) | constants  # tensors that are not given
        if kernel.is_gluon():
            from triton.experimental.gluon._runtime import GluonASTSource as source
        even = [i for i, (name, kind) in enumerate(signature.items()) if kind.startswith("*") or name in aligned]
        attributes = {(i,): [["tt.divisibility", 16]] for i in even}
        signature = {**signature, **dict.fromkeys(constants, "constexpr")}
        built = triton.compile(
            source(fn=kernel, signature=signature, constexprs=constants, attrs=attributes),
            target=GPUTarget("cuda", 90, 32),
            options={"num_warps": warps, "num_stages": stages},
        )
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(built.asm["cubin"])
            file.flush()
            usage = subprocess.run([tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
            code = subprocess.run([tools / "cuobjdump", "-sass", file.name], capture_output=True, text=True, check=True).stdout
        spilled = code.count("LDL") + code.count("STL")
        assert "REG" in usage
        return Build(built.metadata.shared, spilled, code.count("HGMMA") + code.count("QGMMA"), code.count("UTMALDG"), code)

    return make
