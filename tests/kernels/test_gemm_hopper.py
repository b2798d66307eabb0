"""The Hopper product: its plan carried out in a model of the hardware, its machine code, what takes it; and on a GPU its numbers."""

import re
import shutil
import subprocess
from itertools import product
from pathlib import Path

import pytest
import torch

from evostreaming.kernels import gemm, hopper_gemm, native
from evostreaming.kernels.hopper_gemm import TILES, Way, interleaved, tile_for, way_of
from evostreaming.kernels.swiglu import reference_swiglu

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("g++") or shutil.which("clang++")
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """model(*words): run the model of the hardware; raises with what it found wrong."""
    if COMPILER is None:
        pytest.skip("no C++ compiler on this machine")
    program = tmp_path_factory.mktemp("model") / "model"
    source = ROOT / "tests" / "csrc" / "gemm_hopper_model.cpp"
    subprocess.run([COMPILER, "-O2", "-std=c++17", "-I", str(ROOT / "csrc"), str(source), "-o", str(program)], check=True, timeout=100)

    def run(*words):
        done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.mark.parametrize(
    "case",  # T, N, K, tile, rows, columns, clusters, split, gated
    [
        (8, 128, 64, 72, 1, 1, 4, 0, 0),
        (271, 264, 200, 272, 2, 1, 4, 0, 0),
        (272, 256, 640, 136, 2, 2, 3, 1, 0),
        (144, 640, 448, 72, 1, 2, 5, 1, 1),
        (72, 1024, 448, 72, 4, 1, 5, 1, 0),
        (300, 512, 832, 72, 2, 2, 3, 1, 0),
        (40, 368, 1216, 72, 1, 1, 7, 1, 1),
        (150, 256, 64, 72, 2, 4, 2, 1, 0),
    ],
    ids=str,
)
def test_the_plan_multiplies_right_on_a_model_of_the_hardware(model, case):
    """Copies, clusters, swizzle, descriptors, fragments, parts and stores."""
    model("product", *case)


def test_every_block_is_computed_once_and_parts_do_not_collide(model):
    """Tiles, blocks and clusters of the decoders' and towers' products on 132 multiprocessors, and odd ones."""
    sizes = product((1, 2, 5, 14, 18, 28, 60, 65, 66, 67, 132, 148, 1332), (1, 2, 3, 4, 20, 54, 56, 296), (1, 32, 33, 66, 132))
    model("schedule", *(number for size in sizes for number in size))


def test_tiles_pad_least():
    assert [tile_for(tokens) for tokens in (1, 72, 73, 144, 272, 300, 2176, 8192)] == [72, 72, 80, 144, 272, 320, 272, 256]
    assert [tile_for(tokens, columns=2) for tokens in (144, 272, 512)] == [72, 136, 256]


def test_interleaved_rows_are_gates_and_what_they_gate_by_eights():
    found = interleaved(torch.arange(48)[:, None])[:, 0].tolist()
    assert found == [*range(8), *range(24, 32), *range(8, 16), *range(32, 40), *range(16, 24), *range(40, 48)]


def test_only_measured_shapes_leave_cublas(monkeypatch):
    assert way_of(272, 4608, 3584) is None
    monkeypatch.setattr(hopper_gemm, "MEASURED", {(4608, 3584): ((80, 160, 2, 1, False), (161, 320, 2, 2, True))})
    assert way_of(272, 4608, 3584) == Way(136, 2, 2, split=True) and way_of(144, 4608, 3584) == Way(144, 2, 1, split=False)
    assert way_of(321, 4608, 3584) is None and way_of(272, 3584, 3584) is None
    x, weight = torch.randn(272, 3584), torch.randn(4608, 3584)
    assert torch.equal(gemm.gemm(x, weight), torch.nn.functional.linear(x, weight)), "a CPU has its twin"


def test_the_launch_has_every_tile():
    found = re.findall(r"case (\d+): return launch_tile<(\d+), (\d+)>", (ROOT / "csrc" / "gemm_hopper_launch.cuh").read_text())
    assert [int(tile) for tile, _, _ in found] == list(TILES) and all(int(tile) == int(n) * int(parts) for tile, n, parts in found)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
def test_the_machine_code_keeps_its_sums_in_registers_and_its_products_in_flight(tmp_path):
    tools = Path(pytest.importorskip("triton").__file__).parent / "backends" / "nvidia" / "bin"
    source, built = tmp_path / "kernels.cu", tmp_path / "kernels.o"
    instances = ((72, 1), (136, 2), (160, 2), (256, 1))
    uses = ", ".join(f"(void*)evostreaming::hopper::gemm_kernel<false, {n}, {parts}>" for n, parts in instances)
    source.write_text(f'#include "gemm_hopper.cuh"\nvoid* kernels[] = {{{uses}}};\n')
    target = ("-gencode=arch=compute_90a,code=sm_90a", "-Xptxas", "-v", "-I", str(ROOT / "csrc"))
    nvcc = ["nvcc", "-O3", "-std=c++17", "--expt-relaxed-constexpr", *target, "-c", str(source), "-o", str(built)]
    done = subprocess.run(nvcc, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "C75" not in done.stderr, "the assembler waits for each product, or ignores setmaxnreg"
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert spills == [("0", "0", "0")] * len(instances)
    code = subprocess.run([tools / "cuobjdump", "-sass", str(built)], capture_output=True, text=True, check=True).stdout
    for n, parts in instances:
        body = next(part for part in code.split("Function :") if f"Li{n}ELi{parts}E" in part.splitlines()[0])
        products = re.findall(r"HGMMA\.64x(\d+)x16\.F32\.BF16", body)
        assert products == [str(n)] * (4 * parts), "four steps of 16 a block"
        loop = body[body.index("HGMMA") : body.rindex("HGMMA")]
        assert "DEPBAR" not in loop, "nothing waits between the products of a block"
        assert "UTMALDG.2D.MULTICAST" in body and body.count("USETMAXREG") == 2


hopper = pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU")
LAYER = {"qkv": (4608, 3584), "o": (3584, 3584), "gate_up": (37888, 3584), "down": (3584, 18944)}
CLUSTERS = ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2), (2, 4))


def draw(rows, depth):
    return torch.randn(rows, depth, device="cuda").bfloat16()


@pytest.fixture
def poison():
    """Memory that nobody wrote reads as NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def close(out, truth):
    """Every number, where a norm forgives a few that are far off; NaN is wrong."""
    return ((out.float() - truth).abs() <= 2**-7 * truth.abs() + 1e-2 * truth.pow(2).mean().sqrt()).all()


def right(error, x, weight, way):
    out, truth = hopper_gemm.hopper_gemm(x, weight, way), x.float() @ weight.float().t()
    assert error(out, truth) < 3e-3 and close(out, truth), way
    assert torch.equal(out, hopper_gemm.hopper_gemm(x, weight, way)), "the same bits every time"
    assert not hopper_gemm.workspace(x.device)[:4096].any(), "counters are zeros again"


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("name", LAYER)
def test_every_cluster_is_right_on_the_decoders_shapes(error, poison, name):
    torch.manual_seed(0)
    weight = draw(*LAYER[name])
    for tokens in (144, 272):
        x = draw(tokens, LAYER[name][1])
        for rows, columns in CLUSTERS:
            for split in (False, True):
                right(error, x, weight, Way(tile_for(tokens, columns), rows, columns, split=split))


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("shape", [(8, 8), (136, 200), (3592, 1288), (128, 18944), (9000, 72)], ids=str)
@pytest.mark.parametrize("tile", TILES)
def test_every_tile_is_right_at_the_edges(error, poison, tile, shape):
    torch.manual_seed(0)
    for tokens in (1, tile - 3, tile + 5):
        for rows, columns, stages in ((1, 1, 0), (2, 2, 2), (2, 1, 3)):
            right(error, draw(tokens, shape[1]), draw(*shape), Way(tile, rows, columns, stages))


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("shape", [(37888, 3584), (3568, 1288), (16, 200)], ids=str)
@pytest.mark.parametrize("tokens", [1, 144, 272, 300])
def test_a_gated_product_is_its_activation(error, poison, tokens, shape):
    torch.manual_seed(0)
    x, weight = draw(tokens, shape[1]), draw(*shape) * shape[1] ** -0.5
    truth = reference_swiglu(x.float() @ weight.float().t())
    for rows, columns in CLUSTERS:
        for split in (False, True):
            way = Way(tile_for(tokens, columns), rows, columns, split=split)
            out = hopper_gemm.hopper_gemm(x, interleaved(weight), way, gated=True)
            assert error(out, truth) < 3e-3 and close(out, truth), way


@pytest.mark.gpu
@hopper
def test_a_graph_replays_it_and_compilers_know_it():
    x, weight, way = draw(272, 3584), draw(3584, 3584), Way(136, 2, 2)
    first = hopper_gemm.hopper_gemm(x, weight, way)
    space = hopper_gemm.workspace(x.device)
    torch.library.opcheck(torch.ops.evostreaming.gemm_hopper.default, (x, weight, space, *way, False))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = hopper_gemm.hopper_gemm(x, weight, way)
    for _ in range(3):
        again.zero_()
        graph.replay()
        assert torch.equal(first, again)


@pytest.mark.gpu
@hopper
def test_what_it_does_not_take_goes_elsewhere_or_is_refused(monkeypatch):
    assert native.language("cuda") == "cuda"
    x, weight = draw(272, 3584), draw(3584, 3584)
    assert hopper_gemm.takes(x, weight) and not hopper_gemm.takes(x[:, 1:3577], weight) and not hopper_gemm.takes(x.half(), weight.half())
    assert not hopper_gemm.takes(x, weight.requires_grad_())
    weight = weight.detach()
    monkeypatch.setattr(hopper_gemm, "MEASURED", {(3584, 3584): ((200, 300, 2, 2, True),)})
    assert torch.equal(gemm.gemm(x, weight), hopper_gemm.hopper_gemm(x, weight, Way(136, 2, 2)))
    for way, words in ((Way(88), "a tile it has"), (Way(72, rows=3), "1, 2 or 4")):
        with pytest.raises(RuntimeError, match=words):
            hopper_gemm.hopper_gemm(x, weight, way)
    with pytest.raises(RuntimeError, match="multiples of 8"):
        hopper_gemm.hopper_gemm(x[:, :3580].contiguous(), weight[:, :3580].contiguous(), Way(272))
    with pytest.raises(RuntimeError, match="workspace"):
        hopper_gemm.hopper_gemm(x, weight, Way(272), space=torch.zeros(4096, dtype=torch.int32, device="cuda"))
