"""Attention of one token a stream over pages."""

import pytest
import torch

op = pytest.importorskip("evostreaming.kernels.decode_attention")
from evostreaming.kernels import paged_attention  # noqa: E402

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
CASES = {
    "first token": ([1], [1], [(0, 0)]),
    "holes": ([1, 1, 1], [700, 128, 129], [(20, 530), (0, 0), (60, 70)]),
    "a stream without a token": ([1, 0, 1], [384, 77, 400], [(128, 256), (0, 0), (0, 399)]),
}


def arguments(case):
    return case.q, case.keys, case.values, case.table, case.lengths, case.holes, case.starts


@pytest.mark.parametrize("heads", [(7, 1, 64), (8, 2, 128), (4, 2, 64)], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_kernel_equals_the_truth(paged, error, target, name, heads):
    case = paged(*CASES[name], *heads, target.device, target.dtype)
    assert error(paged_attention.paged_attention(*arguments(case), 1), case.truth) < target.tolerance


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("name", CASES)
def test_the_twin_equals_the_twin_of_append_attention(paged, error, name, device):
    case = paged(*CASES[name], 8, 2, 64, device)
    assert error(op.reference_decode_attention(*arguments(case)), case.truth) < 1e-6


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_op_keeps_its_contract_with_the_compiler(paged, device):
    case = paged(*CASES["a stream without a token"], 4, 2, 64, device, torch.float32 if device == "cpu" else torch.bfloat16)
    torch.library.opcheck(torch.ops.evostreaming.decode_attention.default, arguments(case))
    torch.compiler.reset()
    compiled = torch.compile(op.decode_attention, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(*arguments(case)), op.decode_attention(*arguments(case)))


def test_more_rows_than_streams_are_refused():
    rows = torch.zeros(3, 4, 64)
    pages = torch.zeros(1, 128, 2, 64)
    two = torch.ones(2, dtype=torch.int32)
    with pytest.raises(AssertionError, match="3 tokens for 2 streams"):
        op.decode_attention(rows, pages, pages, two.view(2, 1), two, torch.zeros(2, 2, dtype=torch.int32), two)


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [(28, 4, 128), (32, 8, 128)], ids=str)
def test_long_contexts_on_a_gpu(paged, error, heads):
    case = paged([1] * 5, [16384, 100, 8191, 1, 4000], [(0, 0), (0, 0), (500, 3000), (0, 0), (0, 0)], *heads, "cuda", torch.bfloat16)
    out = op.decode_attention(case.q, case.keys, case.values, case.table, case.lengths, case.holes, case.starts)
    assert error(out, case.truth) < 6e-3


def test_compiles_for_hopper(compile_for_hopper):
    config = paged_attention.choose_config(7, 9)
    tile = f"tensordesc<bf16[{config.block_n}, 128]>"
    pointers = dict.fromkeys(("table", "lengths", "holes", "query_start"), "*i32")
    signature = dict(q="*bf16", keys=tile, values=tile, out="*bf16", partials="*fp32") | pointers
    signature |= dict(streams="i32", per_stream="i32", table_width="i32", scale="fp32", LEAST="i32")
    tiles = dict(BLOCK_M=config.block_m, BLOCK_N=config.block_n, TILES=128, STAGES=config.stages)
    constants = dict(KV_HEADS=4, GROUP=7, D=128, PAGE_SIZE=128) | tiles
    build = compile_for_hopper(paged_attention._attention_kernel, signature, constants, config.warps)
    assert build.stack == 0, "registers spill"
    assert build.shared * config.occupancy <= 227 * 1024
    assert build.loads_ahead > 0, "pages are not copied by the tensor memory accelerator"
