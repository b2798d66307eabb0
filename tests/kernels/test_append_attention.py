"""Attention of ragged new tokens over pages: the twin, the Triton kernels in the interpreter and on a GPU, the Hopper kernel."""

from itertools import cycle
from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evostreaming.kernels import append_attention as op

paged_attention = pytest.importorskip("evostreaming.kernels.paged_attention")
Config = paged_attention.Config

# counts, lengths, holes: one token and odd counts, an empty stream, one page, a full last page, holes on and off page and tile edges.
CASES = {
    "one token": ([1], [1], [(0, 0)]),
    "one page": ([5], [128], [(0, 0)]),
    "prefill": ([273], [273], [(0, 0)]),
    "full last page": ([17], [384], [(0, 0)]),
    "ragged": ([40, 0, 3, 1], [300, 0, 256, 65], [(0, 0)] * 4),
    "hole in a page": ([9, 20], [300, 290], [(100, 120), (130, 140)]),
    "hole over pages": ([33, 2], [700, 500], [(20, 530), (128, 256)]),
    "hole from a page edge": ([12], [450], [(128, 300)]),
    "hole up to the new tokens": ([33], [160], [(20, 127)]),
    "empty hole with a place": ([6], [300], [(70, 70)]),
}
HEADS = [(7, 1, 64), (8, 2, 128)]


def launch(case, config=None):
    q, keys, values, table, lengths, holes, starts, counts, _ = case
    return paged_attention.paged_attention(q, keys, values, table, lengths, holes, starts, max(counts), config)


@pytest.mark.parametrize("name", CASES)
def test_the_twin_equals_attention_written_out(paged, error, name):
    counts, lengths, holes = CASES[name]
    case = paged(counts, lengths, holes, 8, 2, 64)
    rows = []
    for stream, (count, length, (start, end)) in enumerate(zip(counts, lengths, holes)):
        live = [slot for slot in range(length) if not start <= slot < end]
        flat = [int(case.table[stream, slot // 128]) * 128 + slot % 128 for slot in live]
        for token in range(count):
            seen = [place for place, slot in zip(flat, live) if slot <= length - count + token]
            k, v = (pages.view(-1, 2, 64)[seen].double().repeat_interleave(4, 1) for pages in (case.keys, case.values))
            weight = torch.softmax(torch.einsum("hd,shd->hs", case.q[len(rows)].double(), k) / 8, -1)
            rows.append(torch.einsum("hs,shd->hd", weight, v))
    assert error(case.truth, torch.stack(rows)) < 1e-12


@pytest.mark.parametrize(("name", "heads"), list(zip(CASES, cycle(HEADS))), ids=str)
def test_kernel_equals_the_truth(paged, error, target, name, heads):
    case = paged(*CASES[name], *heads, target.device, target.dtype)
    before = case.keys.clone(), case.values.clone()
    assert error(launch(case), case.truth) < target.tolerance
    assert torch.equal(before[0].view(torch.uint8), case.keys.view(torch.uint8))
    assert torch.equal(before[1].view(torch.uint8), case.values.view(torch.uint8))


TILE_SIZES = [Config(16, 64, 4, 2, 1), Config(64, 128, 4, 2, 1), Config(128, 64, 8, 2, 1)]


@pytest.mark.parametrize("config", TILE_SIZES, ids=str)
def test_every_tile_size_gives_the_same(paged, error, target, config):
    case = paged([40, 0, 3], [300, 5, 256], [(100, 200), (0, 0), (130, 140)], 7, 1, 64, target.device, target.dtype)
    assert error(launch(case, config), case.truth) < target.tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [[4096] * 8, [4096, 3001, 272, 8191, 300, 2000, 5000, 4097]], ids=["equal", "ragged"])
def test_eight_streams_with_frames_on_a_gpu(paged, error, lengths):
    case = paged([272] * 8, lengths, [(0, 0)] * 5 + [(300, 1101)] * 3, 28, 4, 128, "cuda", torch.bfloat16)
    assert error(launch(case), case.truth) < 6e-3


def test_where_pages_lie_changes_no_bit(paged, target):
    counts, lengths, holes = CASES["hole over pages"]
    case = paged(counts, lengths, holes, 8, 2, 64, target.device, target.dtype)
    shuffle = torch.randperm(len(case.keys), device=target.device)
    moved = case._replace(keys=case.keys[shuffle], values=case.values[shuffle], table=shuffle.argsort()[case.table.long()].int())
    assert torch.equal(launch(case), launch(moved))


def test_nan_in_one_stream_stays_there(paged, target):
    case = paged([9, 20], [300, 290], [(0, 0), (0, 0)], 8, 2, 64, target.device, target.dtype)
    case.q[3] = torch.nan
    out = launch(case)
    assert out[3].isnan().all()
    assert out[:3].isfinite().all() and out[4:].isfinite().all()


@pytest.mark.interpreter
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_split_into_chunks_gives_the_same(paged, error, data):
    length = data.draw(st.integers(2, 400), "length")
    count = data.draw(st.integers(2, min(length, 40)), "new tokens")
    end = data.draw(st.integers(0, length - count), "hole end")
    hole = (data.draw(st.integers(0, end), "hole start"), end)
    cut = data.draw(st.integers(1, count - 1), "cut")
    case = paged([count], [length], [hole], 4, 2, 64, seed=data.draw(st.integers(0, 99), "seed"))
    bounds = [torch.tensor([0, part], dtype=torch.int32) for part in (cut, count - cut)]
    first = case._replace(q=case.q[:cut], lengths=case.lengths - (count - cut), starts=bounds[0], counts=[cut])
    second = case._replace(q=case.q[cut:], starts=bounds[1], counts=[count - cut])
    config = Config(data.draw(st.sampled_from([16, 64]), "rows"), data.draw(st.sampled_from([64, 128]), "slots"), 4, 2, 1)
    assert error(torch.cat((launch(first, config), launch(second, config))), case.truth) < 2e-6
    assert error(launch(case, config), case.truth) < 2e-6


@pytest.mark.gpu
@pytest.mark.parametrize("heads", [(28, 4, 128), (32, 8, 128), (4, 2, 64)], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_frames_over_long_context_on_a_gpu(paged, error, heads, dtype):
    holes = [(0, 0), (300, 1101), (0, 0), (0, 0), (640, 700)]
    case = paged([272, 130, 0, 1, 273], [4096, 3001, 0, 2000, 8191], holes, *heads, "cuda", dtype)
    assert error(launch(case), case.truth) < 6e-3


@pytest.mark.gpu
def test_a_captured_graph_follows_lengths_and_holes(paged, error):
    cases = [
        paged([272, 64], [4096, 640], [(0, 0), (0, 0)], 28, 4, 128, "cuda", torch.bfloat16),
        paged([200, 272], [1500, 4000], [(300, 900), (10, 3000)], 28, 4, 128, "cuda", torch.bfloat16, seed=1),
    ]
    wide = max(len(case.keys) for case in cases)
    live = [torch.zeros(336 + 136, 28, 128, device="cuda", dtype=torch.bfloat16)] + [
        torch.zeros(wide, 128, 4, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2)
    ]
    live += [torch.zeros(2, 64, device="cuda", dtype=torch.int32), *(torch.zeros_like(x) for x in cases[0][4:7])]

    def load(case):
        for buffer, value in zip(live, case[:7]):
            buffer[tuple(slice(n) for n in value.shape)] = value

    load(cases[0])
    paged_attention.paged_attention(*live, 272)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = paged_attention.paged_attention(*live, 272)
    for case in (*cases, cases[0]):
        load(case)
        graph.replay()
        assert error(out[: len(case.q)], case.truth) < 6e-3


@pytest.mark.gpu
@pytest.mark.parametrize("counts", [[272], [1, 1]], ids=str)
def test_the_public_op_runs_triton_on_a_gpu(paged, error, monkeypatch, counts):
    case = paged(counts, [700] * len(counts), [(0, 0)] * len(counts), 28, 4, 128, "cuda", torch.bfloat16)
    monkeypatch.setattr(op, "reference_append_attention", None)
    plan = SimpleNamespace(
        tokens=len(case.q), longest=max(counts), block_table=case.table, lengths=case.lengths, holes=case.holes, query_start=case.starts
    )
    assert op.implementation("cuda") == "triton"
    assert error(op.append_attention(case.q, case.keys, case.values, plan), case.truth) < 6e-3


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("counts", [[9, 0, 20], [1, 0, 1]], ids=str)
def test_the_op_keeps_its_contract_with_the_compiler(paged, error, device, counts):
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    case = paged(counts, [300, 5, 290], [(100, 120), (0, 0), (130, 140)], 4, 2, 64, device, dtype)
    args = (case.q, case.keys, case.values, case.table, case.lengths, case.holes, case.starts, max(counts))
    torch.library.opcheck(torch.ops.evostreaming.append_attention.default, args)
    plan = SimpleNamespace(
        tokens=len(case.q), longest=max(counts), block_table=case.table, lengths=case.lengths, holes=case.holes, query_start=case.starts
    )
    torch.compiler.reset()
    compiled = torch.compile(op.append_attention, backend="aot_eager", fullgraph=True)
    assert error(compiled(case.q, case.keys, case.values, plan), case.truth) < (1e-6 if device == "cpu" else 6e-3)


SIGNATURE = dict(
    out="*bf16", partials="*fp32", table="*i32", lengths="*i32", holes="*i32", query_start="*i32", streams="i32", per_stream="i32",
    table_width="i32", scale="fp32", LEAST="i32",
)  # fmt: skip
SHAPE = dict(KV_HEADS=4, GROUP=7, D=128, PAGE_SIZE=128, TILES=128)


def attention_kernel(compile_for_hopper, config):
    tile = f"tensordesc<bf16[{config.block_n}, 128]{f',{paged_attention.TILE_LAYOUT}' if config.hopper else ''}>"
    kernel = paged_attention.hopper_kernel if config.hopper else paged_attention._attention_kernel
    constants = SHAPE | dict(BLOCK_M=config.block_m, BLOCK_N=config.block_n, STAGES=config.stages)
    return compile_for_hopper(kernel, dict(q="*bf16", keys=tile, values=tile) | SIGNATURE, constants, config.warps)


COMPILED = {
    "hopper": paged_attention.choose_config(272 * 7, 9),
    "triton": paged_attention.choose_config(272 * 7, 10),
    "few rows": paged_attention.choose_config(63, 9),
}


@pytest.mark.parametrize("name", COMPILED)
def test_compiles_for_hopper_onto_tensor_cores(compile_for_hopper, name):
    build = attention_kernel(compile_for_hopper, COMPILED[name])
    assert build.stack == 0, "registers spill"
    assert build.shared <= 227 * 1024
    assert build.wgmma > 0
    assert build.loads_ahead > 0, "pages are not copied by the tensor memory accelerator"
