"""The gated product: its plan carried out in a model of the hardware, its machine code, what takes it; and on a GPU its numbers."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from evostreaming.kernels import gated_gemm as op
from evostreaming.kernels import native
from evostreaming.kernels.gated_gemm import TILES, Way, gated_gemm, launch_gated_gemm, reference_gated_gemm, way_of

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("g++") or shutil.which("clang++")
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """model(*words): run the model of the hardware; raises with what it found wrong."""
    if COMPILER is None:
        pytest.skip("no C++ compiler on this machine")
    program = tmp_path_factory.mktemp("model") / "model"
    source = ROOT / "tests" / "csrc" / "gated_gemm_model.cpp"
    subprocess.run([COMPILER, "-O2", "-std=c++17", "-I", str(ROOT / "csrc"), str(source), "-o", str(program)], check=True, timeout=100)

    def run(*words):
        done = subprocess.run([program, *map(str, words)], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stdout + done.stderr

    return run


@pytest.mark.parametrize(
    "case",  # T, I, K, tile, warpgroups, rows, columns, clusters
    [
        (8, 64, 64, 72, 2, 1, 1, 4),
        (271, 136, 200, 272, 2, 2, 1, 4),
        (144, 320, 448, 72, 2, 1, 2, 5),
        (300, 256, 320, 72, 2, 2, 2, 3),
        (150, 128, 64, 72, 2, 2, 4, 2),
        (272, 576, 192, 136, 3, 1, 2, 5),
        (270, 184, 200, 96, 3, 2, 1, 4),
        (144, 320, 192, 72, 3, 1, 4, 5),
    ],
    ids=str,
)
def test_the_plan_multiplies_right_on_a_model_of_the_hardware(model, case):
    """Copies in sixteens, clusters, swizzle, descriptors, fragments and stores."""
    model(*case)


def test_only_measured_shapes_leave_cublas(monkeypatch):
    assert way_of(272, 4608, 3584) is None
    monkeypatch.setitem(op.MEASURED, (4608, 3584), {(80, 160): Way(72, 128, 2, 1), (161, 320): Way(136, 192, 1, 2)})
    assert way_of(272, 4608, 3584) == Way(136, 192, 1, 2) and way_of(160, 4608, 3584) == Way(72, 128, 2, 1)
    assert way_of(321, 4608, 3584) is None and way_of(272, 3584, 3584) is None
    x, weight = torch.randn(272, 3584), torch.randn(4608, 3584)
    assert torch.equal(gated_gemm(x, weight), reference_gated_gemm(x, weight)), "a CPU has its twin"


def test_every_measured_way_is_one_that_the_kernel_has_and_wastes_little_of_a_tile():
    for (width, depth), ways in op.MEASURED.items():
        assert width % 16 == 0 and depth % 8 == 0
        ends = [end for ends in ways for end in ends]
        assert ends == sorted(set(ends)), "ranges follow each other"
        for (fewest, _), way in ways.items():
            assert way.height in (128, 192) and {way.rows, way.columns} <= {1, 2, 4} and way.tile in TILES
            assert way.height == 128 or way.tile <= 160, "three warpgroups have registers for no more"
            step = way.tile * way.columns
            assert -(-fewest // step) * step <= 1.13 * fewest


@pytest.mark.parametrize("bias", [False, True])
def test_a_gated_product_gates_the_second_half_by_the_first(bias):
    torch.manual_seed(0)
    x, gates, ups, shift = torch.randn(5, 32), torch.randn(24, 32), torch.randn(24, 32), torch.randn(48) * bias
    found = gated_gemm(x, torch.cat((gates, ups)), shift if bias else None)
    gate, up = x @ gates.t() + shift[:24], x @ ups.t() + shift[24:]
    torch.testing.assert_close(found, gate * torch.sigmoid(gate) * up)


def test_the_launch_has_every_tile():
    found = re.findall(r"case (\d+): return launch_tile<(\d+), (\d+)>", (ROOT / "csrc" / "gated_gemm_launch.cuh").read_text())
    assert [int(tile) for tile, _, _ in found] == list(TILES) and all(int(tile) == int(n) * int(parts) for tile, n, parts in found)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
def test_the_machine_code_keeps_its_sums_in_registers_and_its_products_in_flight(tmp_path):
    tools = Path(pytest.importorskip("triton").__file__).parent / "backends" / "nvidia" / "bin"
    source, built = tmp_path / "kernels.cu", tmp_path / "kernels.o"
    instances = ((2, 72, 1), (2, 136, 2), (2, 160, 2), (2, 256, 1), (3, 136, 1), (3, 160, 1))
    uses = ", ".join(f"(void*)evostreaming::hopper::gated_gemm_kernel<{', '.join(map(str, instance))}>" for instance in instances)
    source.write_text(f'#include "gated_gemm.cuh"\nvoid* kernels[] = {{{uses}}};\n')
    target = ("-gencode=arch=compute_90a,code=sm_90a", "-Xptxas", "-v", "-I", str(ROOT / "csrc"))
    nvcc = ["nvcc", "-O3", "-std=c++17", "--expt-relaxed-constexpr", *target, "-c", str(source), "-o", str(built)]
    done = subprocess.run(nvcc, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "C75" not in done.stderr, "the assembler waits for each product, or ignores setmaxnreg"
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert spills == [("0", "0", "0")] * len(instances)
    code = subprocess.run([tools / "cuobjdump", "-sass", str(built)], capture_output=True, text=True, check=True).stdout
    for groups, n, parts in instances:
        name = f"Li{groups}ELi{n}ELi{parts}E"
        body = next(part for part in code.split("Function :") if name in part.splitlines()[0])
        products = re.findall(r"HGMMA\.64x(\d+)x16\.F32\.BF16", body)
        assert products == [str(n)] * (4 * parts), "four steps of 16 a block"
        loop = body[body.index("HGMMA") : body.rindex("HGMMA")]
        assert "DEPBAR" not in loop, "nothing waits between the products of a block"
        assert "UTMALDG.2D.MULTICAST" in body and body.count("USETMAXREG") == 2
        assert "UTMALDG.4D.MULTICAST" in body, "gates and what they gate come in one box"


hopper = pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU")
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


def right(error, x, weight, way, bias=None):
    out = launch_gated_gemm(x, weight, way, bias)
    truth = reference_gated_gemm(x.float(), weight.float(), None if bias is None else bias.float())
    assert error(out, truth) < 3e-3 and close(out, truth), way
    assert torch.equal(out, launch_gated_gemm(x, weight, way, bias)), "the same bits every time"


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("shape", [(37888, 3584), (24576, 4096), (6912, 1280)], ids=str)
@pytest.mark.parametrize("height", [128, 192])
@pytest.mark.parametrize("bias", [False, True])
def test_every_cluster_is_right_on_the_models_shapes(error, poison, shape, height, bias):
    torch.manual_seed(0)
    weight = draw(*shape) * shape[1] ** -0.5
    shift = torch.randn(shape[0], device="cuda").bfloat16() if bias else None
    for tokens, tile in ((1, 72), (144, 144), (272, 136), (300, 160)):
        x = draw(tokens, shape[1])
        for cut in CLUSTERS:
            right(error, x, weight, Way(tile, height, *cut), shift)


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("shape", op.MEASURED, ids=str)
def test_every_measured_way_is_right_at_both_ends_of_its_range(error, poison, shape):
    torch.manual_seed(0)
    weight = draw(*shape) * shape[1] ** -0.5
    for ends, way in op.MEASURED[shape].items():
        for tokens in ends:
            right(error, draw(tokens, shape[1]), weight, way)


@pytest.mark.gpu
@hopper
@pytest.mark.parametrize("shape", [(16, 8), (144, 200), (3600, 1288), (128, 18944), (9008, 72)], ids=str)
@pytest.mark.parametrize("tile", TILES)
def test_every_tile_is_right_at_the_edges(error, poison, tile, shape):
    torch.manual_seed(0)
    for height in (128, 192) if tile <= 160 else (128,):
        for tokens in (1, tile - 3, tile + 5):
            for cut in ((1, 1), (2, 2), (2, 1)):
                weight = draw(*shape) * shape[1] ** -0.5
                right(error, draw(tokens, shape[1]), weight, Way(tile, height, *cut), torch.randn(shape[0], device="cuda").bfloat16())


@pytest.mark.gpu
@hopper
def test_a_graph_replays_it_and_compilers_know_it():
    x, weight, way = draw(272, 3584), draw(37888, 3584), Way(136, 192, 1, 2)
    first = launch_gated_gemm(x, weight, way)
    torch.library.opcheck(torch.ops.evostreaming.gated_gemm.default, (x, weight, None, *way))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = launch_gated_gemm(x, weight, way)
    for _ in range(3):
        again.zero_()
        graph.replay()
        assert torch.equal(first, again)


@pytest.mark.gpu
@hopper
def test_what_it_does_not_take_goes_elsewhere_or_is_refused(monkeypatch):
    assert native.language("cuda") == "cuda"
    x, weight = draw(272, 3584), draw(3584, 3584)
    assert op.takes(x, weight) and not op.takes(x[:, 1:3577], weight) and not op.takes(x.half(), weight.half())
    assert not op.takes(x, weight.requires_grad_())
    weight = weight.detach()
    monkeypatch.setitem(op.MEASURED, (3584, 3584), {(200, 300): Way(136, 128, 2, 2)})
    assert torch.equal(gated_gemm(x, weight), launch_gated_gemm(x, weight, Way(136, 128, 2, 2)))
    for way, words in ((Way(88), "a tile it has"), (Way(72, rows=3), "1, 2 or 4"), (Way(192, 192), "a tile it has")):
        with pytest.raises(RuntimeError, match=words):
            launch_gated_gemm(x, weight, way)
    with pytest.raises(RuntimeError, match="multiples of 8"):
        launch_gated_gemm(x[:, :3580].contiguous(), weight[:, :3580].contiguous(), Way(272))
