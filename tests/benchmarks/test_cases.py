"""The benches of the ops, on a CPU with small shapes: every op passes its check, every peer runs, and a line says what each cost."""

import importlib

import pytest
import torch
from torch.overrides import TorchFunctionMode

from evostreaming.benchmarks import cases, timing
from evostreaming.kernels.gemm import reference_scaled_gemm

SMALL = {
    "append": [("append", 5, 4, 2, True), ("append", 1, 4, 2, False)],
    "append_attention": [(4, 2, 3, 2, 256), (4, 4, 1, 1, 128)],
    "gate": [("softmax", 32, 70_100, 1), ("pair", 32, 70_100, 3)],
    "gemm": [("bf16", 3), ("fp8", 3), ("fp8", 17)],
    "norm": [("norm", 3, 256), ("layer_norm", 3, 96)],
    "preprocess": [("preprocess", (720, 40), (56, 28), 14, 2, 15)],
    "rotate": [(2, 2)],
    "swiglu": [("swiglu", 3, 256), ("tanh", 3, 96)],
    "vision_attention": [("frame", 2, 16, 70, 2), ("window", 2, 16, 16, 3)],
}


class OnCpu(TorchFunctionMode):
    """What asks for a CUDA device gets the CPU."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if kwargs.get("device") == "cuda":
            kwargs["device"] = "cpu"
        return function(*args, **kwargs)


class CpuGenerator(torch.Generator):
    def __new__(cls, device="cpu"):
        return super().__new__(cls)


@pytest.fixture
def bench(monkeypatch):
    """bench(op): its module, on the CPU, each call made once and said to take 2 µs."""

    def once(calls, replays=15):
        for call in calls:
            call()
        return 2.0

    def module(op):
        found = importlib.import_module(f"evostreaming.benchmarks.bench_{op}")
        monkeypatch.setattr(found, "implementation", lambda device: "cuda", raising=False)
        if op == "append_attention":
            data = found.data

            def with_host_values(*arguments):
                q, keys, values, plan = data(*arguments)
                plan.live_slots = found.live_slots(plan.block_table, plan.lengths, plan.holes)
                plan.host_query_start = plan.query_start.tolist()
                return q, keys, values, plan

            monkeypatch.setattr(found, "data", with_host_values)
        if op == "gemm":
            monkeypatch.setattr(found, "LAYER", {"up": (64, 32), "down": (32, 64)})
            monkeypatch.setattr(found, "COLD", 1)
            monkeypatch.setattr(found, "by_torch", reference_scaled_gemm)
        return found

    monkeypatch.setattr(torch, "Generator", CpuGenerator)
    monkeypatch.setattr(cases, "microseconds", once)
    with OnCpu(), torch.compiler.set_stance("force_eager"):
        yield module


@pytest.mark.parametrize("op", SMALL)
def test_every_op_passes_its_check_and_stands_beside_a_peer(bench, op):
    for arguments in SMALL[op]:
        made = list(bench(op).cases(*arguments))
        assert {case.what for case in made if case.check}, "no case has a check"
        found = cases.run(made, refcheck=True)
        assert len(found) == len(made) >= 2
        assert all("2.00 µs" in line or "cannot: " in line for line in found.values())
        assert any("% of floor" in line for line in found.values())


@pytest.mark.parametrize("op", SMALL)
def test_a_check_fails_when_the_op_is_wrong(bench, op, monkeypatch):
    module = bench(op)
    right = getattr(module, op)

    def wrong(*args, **options):
        """The op on inputs of which the first is halved."""
        first = args[0].flip(0) if args[0].dtype == torch.uint8 else args[0] * 0.5 + 0.1
        return right(first.to(args[0].dtype), *args[1:], **options)

    monkeypatch.setattr(module, op, wrong)
    with pytest.raises(AssertionError):
        cases.run(module.cases(*SMALL[op][0]), refcheck=True)


def test_the_peers_of_attention_do_the_ops_work(bench):
    """Shapes and values; cuDNN's and FlashAttention's own kernels need a GPU."""
    vision, append = bench("vision_attention"), bench("append_attention")
    qkv, starts = torch.randn(12, 3, 2, 16), torch.tensor([0, 6, 12], dtype=torch.int32)
    truth = vision.vision_attention(qkv, starts, 6, *(angles := (torch.randn(12, 8).cos(), torch.randn(12, 8).sin())))
    peer = vision.attend(vision.batched, qkv, starts, 6, *angles).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(peer, truth)
    q, keys, values, plan = append.data(4, 2, 3, 1, 128)
    plan.block_table = torch.zeros_like(plan.block_table)
    gathered = [append.batch(x.float(), 1) for x in (q, keys, values)]
    expected = append.reference_append_attention(q.float(), keys.float(), values.float(), [torch.arange(128)], [0, 3])
    gathered[1:] = (x.repeat_interleave(2, 1) for x in gathered[1:])
    torch.testing.assert_close(append.by_flash(*gathered)[0].transpose(0, 1), expected)


def test_a_peer_that_cannot_is_said_to_and_our_op_has_to(monkeypatch):
    def refuse():
        raise RuntimeError("No available kernel.\nmore")

    monkeypatch.setattr(cases, "microseconds", lambda calls, replays=15: float(calls[0]()))
    found = cases.run([cases.Case("work", "ours", [lambda: 3]), cases.Case("work", "peer", [refuse])])
    assert found["work, peer"] == "cannot: No available kernel."
    with pytest.raises(RuntimeError, match="No available"):
        cases.run([cases.Case("work", "ours", [refuse])])


def test_the_fastest_of_many_ways_is_taken(monkeypatch):
    monkeypatch.setattr(cases, "microseconds", lambda calls, replays=15: calls[0])
    found = cases.run([cases.Case("work", "ours", [6.0]), cases.Case("work", "peer", many={"2 splits": [5.0], "4 splits": [3.0]})])
    assert found["work, peer, 4 splits"].endswith("x0.50")
    assert list(cases.run([cases.Case("a", "ours", [1.0]), cases.Case("a", "peer", [1.0])], alone=True)) == ["a, ours"]


def test_a_line_names_the_bound_that_holds_and_its_share():
    assert "4300 GB/s" in (line := timing.describe(2.0, size=8.6e6)) and "100.0 % of floor" in line
    assert "395 TFLOP/s" in (line := timing.describe(2.0, size=1e6, flops=790e6)) and " 50.0 % of floor" in line
    assert "75.0 % of floor" in timing.describe(4.0, flops=4.5e9, kind="fp8", ours=2.0)
    assert timing.describe(4.0, ours=2.0).endswith("µs, x2.00")
