"""gate: probability and decision against float64 in every mode, for any number of streams and any vocabulary; who rests is silent."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evostreaming.kernels.gate import MODES, fits, gate, reference_gate

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EPS = 1e-6


class Case:
    """Rows, norm and head inside larger tensors of NaN: a read beside them shows in the answer."""

    def __init__(self, streams, vocabulary, width, dtype=torch.float32, device="cpu", seed=0, spread=2.0):
        random = torch.Generator().manual_seed(seed)

        def guarded(count, scale):
            room = torch.full((count + 4, width), float("nan"), dtype=dtype)
            room[2 : 2 + count] = (scale * torch.randn(count, width, generator=random)).to(dtype)
            return room.to(device)[2 : 2 + count]

        self.rows, self.head = guarded(streams, 5.0), guarded(vocabulary, spread / width**0.5)
        self.weight = (1 + 0.1 * torch.randn(width, generator=random)).to(device, dtype)
        self.silence = vocabulary * 2 // 3
        self.marker = vocabulary // 5

    def run(self, mode="softmax", threshold=0.5, rows=None, op=gate, resting=None):
        rows = self.rows if rows is None else rows
        return op(rows, self.weight, EPS, self.head, self.silence, self.marker, mode, threshold, resting)

    def resting(self, turns):
        """Counters on the device, between others that would turn every answer round: a read beside them shows."""
        beside = [0 if turn > 0 else 7 for turn in turns]
        return torch.tensor([*beside, *turns, *beside], dtype=torch.int32, device=self.rows.device)[len(turns) : 2 * len(turns)]

    def logits(self):
        """Float64, with the one rounding that the formula has: of the normalized row."""
        wide = self.rows.cpu().double()
        normal = wide / (wide.square().mean(-1, keepdim=True) + EPS).sqrt() * self.weight.cpu().double()
        return normal.to(self.rows.dtype).double() @ self.head.cpu().double().t()


def truth(case, mode):
    logits = case.logits()
    if mode == "pair":
        return torch.sigmoid(logits[:, case.marker] - logits[:, case.silence])
    return 1 - torch.softmax(logits, -1)[:, case.silence]


def tolerance(dtype):
    # One bf16 ulp of a normalized entry can fall to the other side in float32; it moves a logit by about 1e-3.
    return 1e-5 if dtype == torch.float32 else 2e-3


SHAPES = [
    *[(streams, 1000, 64) for streams in (1, 2, 7, 8, 9, 16, 17, 33)],
    *[(3, vocabulary, 96) for vocabulary in (1, 2, 15, 17, 63, 64, 65, 513)],
    *[(2, 200, width) for width in (32, 160, 3584, 4096)],
    # More than 16 streams go 256 columns at a time, and 128 rows of the head: whole passes, parts of one, rows left over.
    *[(17, 128, 256), (32, 129, 544), (33, 257, 512), (20, 300, 3584)],
]


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_probability_is_that_of_float64(mode, dtype, device):
    for shape in SHAPES:
        case = Case(*shape, dtype=dtype, device=device)
        speak, probability = case.run(mode)
        assert (speak.dtype, probability.dtype, speak.device) == (torch.bool, torch.float32, case.rows.device)
        error = (probability.cpu().double() - truth(case, mode)).norm() / max(1e-3, truth(case, mode).norm())
        assert error <= tolerance(dtype), (shape, mode, float(error))


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("width", [136, 200])
@pytest.mark.parametrize("mode", MODES)
def test_small_checkpoints_decide_too_whatever_their_width(mode, width, device):
    case = Case(3, 200, width, dtype=torch.bfloat16, device=device)
    probability = case.run(mode)[1].cpu().double()
    assert (probability - truth(case, mode)).norm() <= tolerance(torch.bfloat16) * truth(case, mode).norm().clamp(min=1e-3)


def test_every_published_width_goes_to_the_cuda_op_and_odd_ones_to_the_twin():
    assert all(fits("cuda", width) for width in (1536, 2048, 3584, 4096, 5120, 8192))
    assert not any(fits("cuda", width) for width in (136, 200, 16416)) and fits("cpu", 136)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("mode", ["softmax", "pair"])
def test_speaking_is_a_probability_at_or_above_the_threshold(mode, device):
    case = Case(20, 300, 64, device=device)
    _, probability = case.run(mode)
    for threshold in (0.0, 1.0, float(probability[3]), float(probability.median())):
        speak, again = case.run(mode, threshold)
        assert torch.equal(again, probability)
        assert torch.equal(speak, probability >= threshold)
    assert case.run(mode, float(probability[3]))[0][3]


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_greedy_is_silent_exactly_where_silence_is_the_most_likely_token(dtype, device):
    case = Case(24, 700, 64, dtype=dtype, device=device, spread=4.0)
    # Half of the streams point at the silence token.
    case.rows[::2] += 40 * case.head[case.silence].to(case.rows.dtype)
    speak, _ = case.run("greedy")
    logits = case.logits()
    top = logits.topk(2).values
    assert (top[:, 0] - top[:, 1]).min() > 1e-3
    assert torch.equal(speak.cpu(), logits.argmax(-1) != case.silence)
    assert speak.any()
    assert not speak.all()


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("other", [5, 600])
def test_a_tie_goes_to_the_token_that_comes_first(other, device):
    case = Case(3, 700, 64, device=device)
    case.silence = 300
    case.rows += 300 * case.head[300]
    case.head[other] = case.head[300]
    assert case.run("greedy")[0].eq(other < 300).all()


@pytest.mark.parametrize("device", ["cpu", GPU])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    turns=st.lists(st.sampled_from([-3, 0, 0, 1, 2, 2**31 - 1]), min_size=1, max_size=40),
    vocabulary=st.integers(1, 300),
    mode=st.sampled_from(MODES),
)
def test_a_resting_stream_is_silent_and_nothing_else_changes(device, seed, turns, vocabulary, mode):
    case = Case(len(turns), vocabulary, 64, device=device, seed=seed)
    free = case.run(mode, 0.2)
    for op in (gate, reference_gate):
        speak, probability = case.run(mode, 0.2, op=op, resting=case.resting(turns))
        unhindered = free if op is gate else case.run(mode, 0.2, op=op)
        assert torch.equal(speak.cpu(), unhindered[0].cpu() & (torch.tensor(turns) <= 0))
        assert torch.equal(probability, unhindered[1])


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("mode", MODES)
def test_a_broken_row_is_told_from_a_resting_one(mode, device):
    case = Case(6, 130, 64, device=device)
    case.rows[[1, 4], 3] = float("nan")
    turns = [0, 0, 2, 0, 2, 2]
    speak, probability = case.run(mode, 0.0, resting=case.resting(turns))
    assert probability.isnan().nonzero().flatten().tolist() == [1, 4]
    assert not speak[[2, 4, 5]].any()
    if mode != "greedy":
        assert speak[[0, 3]].all()


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_counters_of_another_dtype_or_number_are_refused(device):
    case = Case(3, 130, 64, device=device)
    for wrong in (torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int32), torch.zeros(3, 1, dtype=torch.int32)):
        with pytest.raises(AssertionError, match="one int32 a row"):
            case.run(resting=wrong.to(device))
    arguments = (case.rows, case.weight, EPS, case.head, case.silence, case.marker, 1, 0.5)
    with pytest.raises(RuntimeError, match="resting has another"):
        torch.ops.evostreaming.gate(*arguments, torch.zeros(2, dtype=torch.int32, device=device))


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("mode", MODES)
def test_a_broken_row_gives_nan_and_leaves_the_other_streams_alone(mode, device):
    case = Case(9, 130, 64, device=device)
    expected = case.run(mode)
    rows = case.rows.clone()
    rows[2, 7], rows[5, 0] = float("nan"), float("inf")
    speak, probability = case.run(mode, rows=rows)
    assert probability.isnan().nonzero().flatten().tolist() == [2, 5]
    fine = ~probability.isnan()
    assert torch.equal(probability[fine], expected[1][fine])
    assert torch.equal(speak[fine], expected[0][fine])


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("mode", MODES)
def test_large_logits_do_not_overflow(mode, device):
    case = Case(4, 130, 64, device=device, spread=1000.0)
    _, probability = case.run(mode)
    torch.testing.assert_close(probability.cpu().double(), truth(case, mode), rtol=0, atol=1e-2)


@pytest.mark.parametrize("device", ["cpu", GPU])
@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    streams=st.integers(1, 40),
    vocabulary=st.integers(1, 300),
    mode=st.sampled_from(MODES),
    width=st.sampled_from([64, 544]),
    first=st.integers(0, 39),
)
def test_a_stream_decides_the_same_alone_and_in_any_batch(device, seed, streams, vocabulary, mode, width, first):
    case = Case(streams, vocabulary, width, dtype=torch.bfloat16, device=device, seed=seed)
    together = case.run(mode)
    one = first % streams
    alone = case.run(mode, rows=case.rows[one : one + 1])
    assert torch.equal(alone[1], together[1][one : one + 1])
    assert torch.equal(alone[0], together[0][one : one + 1])


def test_the_answer_does_not_depend_on_the_number_of_threads():
    case = Case(3, 5000, 64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = case.run()
        torch.set_num_threads(2)
        assert torch.equal(case.run()[1], expected[1])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("mode", MODES)
def test_no_streams_decide_nothing(mode, device):
    speak, probability = Case(0, 130, 64, device=device).run(mode)
    assert speak.shape == probability.shape == (0,)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("mode", MODES)
def test_it_agrees_with_its_twin(mode, device):
    case = Case(5, 321, 96, device=device)
    speak, probability = case.run(mode)
    expected = case.run(mode, op=reference_gate)
    torch.testing.assert_close(probability, expected[1], rtol=0, atol=2e-5)
    assert torch.equal(speak, expected[0])


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_op_keeps_its_contract_with_the_compiler(device):
    case = Case(3, 130, 64, device=device)
    resting = case.resting([0, 1, 0])
    for mode in range(3):
        args = (case.rows, case.weight, EPS, case.head, case.silence, case.marker, mode, 0.5)
        torch.library.opcheck(torch.ops.evostreaming.gate.default, args)
        torch.library.opcheck(torch.ops.evostreaming.gate.default, (*args, resting))
    for turns in (None, resting):
        torch.compiler.reset()
        compiled = torch.compile(gate, backend="aot_eager", fullgraph=True)
        for got, expected in zip(case.run(op=compiled, resting=turns), case.run(resting=turns)):
            assert torch.equal(got, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("mode", MODES)
def test_a_captured_graph_follows_its_rows_and_counters_without_a_sync(mode):
    case, other = (Case(9, 5000, 128, dtype=torch.bfloat16, device="cuda", seed=seed) for seed in (1, 2))
    after = case.resting([0, 2] * 4 + [0])
    expected = case.run(mode, 0.2, rows=other.rows, resting=after)
    graph = torch.cuda.CUDAGraph()
    rows, resting = case.rows.clone(), torch.ones_like(after)
    with torch.cuda.graph(graph):
        speak, probability = case.run(mode, 0.2, rows=rows, resting=resting)
    rows.copy_(other.rows)
    resting.copy_(after)
    torch.cuda.set_sync_debug_mode("error")
    try:
        graph.replay()
        case.run(mode)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(probability, expected[1])
    assert torch.equal(speak, expected[0])
