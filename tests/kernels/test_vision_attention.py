"""Attention of the vision towers over packed segments."""

import pytest
import torch

from evostreaming.kernels import vision_attention as op


def inputs(lengths, rows, heads, dim, device="cpu", dtype=torch.float32):
    qkv = torch.randn(rows, 3, heads, dim).to(dtype).to(device)
    angle = torch.rand(rows, dim // 2, dtype=torch.float64) * 6
    starts = torch.tensor([0, *lengths]).cumsum(0).int().to(device)
    return qkv, starts, angle.cos().float().to(device), angle.sin().float().to(device)


def test_the_twin_equals_attention_written_out(error):
    torch.manual_seed(0)
    qkv, starts, cos, sin = inputs([3, 5], 9, 2, 8)
    q, k, v = qkv.double().unbind(1)
    turn = torch.complex(cos.double(), sin.double())[:, None]
    q, k = (torch.complex(*x.chunk(2, -1)) * turn for x in (q, k))
    truth = torch.zeros(9, 2, 8, dtype=torch.float64)
    for begin, end in ((0, 3), (3, 8)):
        score = torch.einsum("ahd,bhd->hab", q[begin:end], k[begin:end].conj()).real / 8**0.5
        truth[begin:end] = torch.einsum("hab,bhd->ahd", score.softmax(-1), v[begin:end])
    assert error(op.vision_attention(qkv, starts, 5, cos, sin), truth) < 1e-6


@pytest.mark.parametrize("dim", [32, 64, 72, 80])
@pytest.mark.parametrize(("lengths", "rows"), [([64, 64, 16], 150), ([129, 1, 7], 137)], ids=["windows and padding", "frames"])
def test_kernel_equals_the_truth(error, target, dim, lengths, rows):
    qkv, starts, cos, sin = inputs(lengths, rows, 2, dim, target.device, target.dtype)
    for angles in ((cos, sin), ()):
        out = op.launch_vision_attention(qkv, starts, max(lengths), *angles)
        assert error(out, op.reference_vision_attention(qkv.double(), starts, *angles)) < 1.5 * target.tolerance
        assert not out[sum(lengths) :].any(), "padded rows are zero"


def test_segments_do_not_see_each_other(target):
    qkv, starts, cos, sin = inputs([64, 30], 94, 2, 80, target.device, target.dtype)
    before = op.launch_vision_attention(qkv, starts, 64, cos, sin)
    qkv[64:] = torch.randn_like(qkv[64:])
    assert torch.equal(op.launch_vision_attention(qkv, starts, 64, cos, sin)[:64], before[:64])


def test_heads_apart_are_refused():
    with pytest.raises(AssertionError, match="contiguous"):
        op.vision_attention(torch.zeros(4, 3, 2, 32)[..., :16], torch.tensor([0, 4], dtype=torch.int32), 4)


@pytest.mark.gpu
def test_the_public_op_runs_triton_on_a_gpu(error, monkeypatch):
    qkv, starts, cos, sin = inputs([1024, 1024, 640], 2700, 16, 80, "cuda", torch.bfloat16)
    truth = op.reference_vision_attention(qkv.double(), starts, cos, sin)
    monkeypatch.setattr(op, "reference_vision_attention", None)
    assert error(op.vision_attention(qkv, starts, 1024, cos, sin), truth) < 1e-2


@pytest.mark.parametrize(("longest", "dim"), [(64, 80), (1024, 64), (1024, 72), (1024, 80)])
def test_compiles_for_hopper_onto_tensor_cores(compile_for_hopper, longest, dim):
    block_m, block_n, warps, stages = op.choose_config(longest)
    main, rest = op.split_dim(dim)
    signature = dict(q="*bf16", k="*bf16", v="*bf16", out="*bf16", starts="*i32", tokens="i32", segments="i32", stride="i32")
    signature |= dict(v_stride="i32", scale="fp32")
    constants = dict(HEADS=16, D=dim, MAIN=main, REST=rest, BLOCK_M=block_m, BLOCK_N=block_n, STAGES=stages)
    build = compile_for_hopper(op._vision_kernel, signature, constants, warps)
    assert build.stack == 0, "registers spill"
    assert build.shared <= 227 * 1024
    assert build.wgmma > 0
    assert stages > 1, "one stage computes columns past 64 wrong, see choose_config"
