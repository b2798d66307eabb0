"""CUDA graphs change when work is launched, never what is computed."""

import pytest
import torch

from evostreaming.engine.asking import asked
from evostreaming.engine.context import Piece
from evostreaming.engine.forward import Chunk
from evostreaming.engine.gate import Gate
from evostreaming.engine.reply import Reply, begin, finish

pytestmark = pytest.mark.gpu


def close(a, b):
    """Another padding may pick another matrix product: equal up to bf16 rounding."""
    return torch.linalg.norm(a - b) <= 0.02 * torch.linalg.norm(b)


@pytest.fixture
def pair(make_engine, golden):
    """pair(family, **options) -> (engine with graphs, engine without) on the GPU in bf16."""

    def make(family, **options):
        engines = [make_engine(golden(family), device="cuda", dtype="bfloat16", **options) for _ in range(2)]
        assert engines[0].forward.graphs is not None, "the native ops are not built, so nothing is captured"
        engines[1].forward.graphs = engines[1].frames.graphs = None
        return engines

    return make


def test_steps_equal_eager_ones_over_a_growing_context_with_queries_and_replies(pair, golden, family):
    data = golden(family)
    steps = []
    for engine in pair(family):
        with engine.open(query=data.query, logits=True) as stream:
            steps.append([])
            for index in range(24):
                if index % 9 == 4:
                    stream.ask(f"And now, {index}?")
                force = "A longer reply than before." if index % 6 == 2 else False
                steps[-1].append(engine.step(data.frame(index), stream, time=float(index), force=force))
    for ours, eager in zip(*steps):
        assert close(ours.logits, eager.logits), ours.index


def test_both_heavy_parts_are_captured_and_replayed(pair, golden):
    data = golden("qwen2_5_vl")
    engine, _ = pair("qwen2_5_vl")
    with engine.open() as stream:
        for index in range(6):
            engine.step(data.frame(index), stream, force=False)
        kept = list(engine.forward.graphs.kept)
        assert {key[0] for key in kept} == {"tower", "decoder"}, kept
        assert engine.captures == (len(kept), engine.forward.graphs.bytes)
        for index in range(6):
            engine.step(data.frame(index), stream, force=False)
        assert list(engine.forward.graphs.kept) == kept


def test_batches_with_free_replies_equal_eager_ones(pair, golden):
    data = golden("qwen2_5_vl")
    texts = []
    for engine in pair("qwen2_5_vl", gate=Gate("softmax", 0.0), max_reply=12):
        streams = [engine.open(query=data.query) for _ in range(3)]
        steps = [engine.step([data.frame(index + place) for place in range(3)], streams=streams) for index in range(6)]
        texts.append([len(step.text or "") for batch in steps for step in batch])
        assert all(step.speak for batch in steps for step in batch)
    assert min(texts[0]) > 0


def test_batches_that_grow_and_shrink_equal_eager_ones(pair, golden, family):
    data = golden(family)
    logits, captured = [], []
    for engine in pair(family, max_streams=5):
        streams = [engine.open(query="q" * (1 + 20 * index), logits=True) for index in range(5)]
        logits.append([])
        for turn, count in enumerate([5, 5, 5, 4, 4, 3, 5, 2, 2, 1, 1, 5]):
            forces = ["Yes, it did.", False, False, False, False][:count]
            shown = [data.frame(turn + place) for place in range(count)]
            logits[-1] += [step.logits for step in engine.step(shown, streams=streams[:count], force=forces)]
        captured.append(engine.captures[0])
    assert captured[0] > 2 and captured[1] == 0
    for ours, eager in zip(*logits):
        assert close(ours, eager)


@torch.inference_mode()
def test_one_token_a_stream_equals_eager(pair, golden, family):
    """The decode of replies, of as many streams as a bucket holds and of fewer."""
    data = golden(family)
    hidden = []
    for engine in pair(family, max_streams=5):
        streams = [engine.open(query="q" * (1 + 40 * index)) for index in range(5)]
        for turn in range(3):
            engine.step([data.frame(turn)] * 5, streams=streams, force=False)
        hidden.append([])
        for turn, count in enumerate([5, 5, 5, 3, 3, 4, 4, 1, 1, 5]):
            chunks = [Chunk([Piece("text", stream.index, (20 + turn,))], [], [0]) for stream in streams[:count]]
            hidden[-1] += list(engine.forward([stream.context for stream in streams[:count]], chunks).float())
    for ours, eager in zip(*hidden):
        assert close(ours, eager)


@pytest.mark.parametrize("count", [1, 3])
@torch.inference_mode()
def test_tokens_decoded_ahead_are_those_decoded_in_step(pair, golden, count):
    """Over the end of a page, on forks of the same streams; a `pick` makes the host choose every token."""
    engine, _ = pair("qwen2_5_vl", max_streams=8)
    streams = [engine.open(query="q" * (1 + 40 * index)) for index in range(count)]
    engine.step([golden("qwen2_5_vl").frame(0)] * count, streams=streams, force=False)
    for _ in range(3):  # the first rounds capture
        answers = []
        for pick in (None, lambda logits: logits.argmax(-1)):
            with asked(engine, streams, ["What now?"] * count) as (forks, rows):
                replies = [Reply(fork.context, fork.index, (), {}, 200) for fork in forks]
                begin(engine.forward, replies, rows, (), pick)
                finish(engine.forward, replies, pick)
                answers.append([(reply.ids, reply.cached, reply.context.next_position, reply.context.table.length) for reply in replies])
    assert any(key[0] == "tokens" for key in engine.forward.graphs.kept)
    assert answers[0] == answers[1]


def test_frames_of_any_shape_from_host_and_device_equal_eager_ones(pair, noise):
    logits, engines = [], pair("qwen2_5_vl")
    for engine in engines:
        with engine.open(logits=True) as stream:
            logits.append([])
            for index, frame in enumerate(noise(24)):
                narrower = frame[:, : frame.shape[1] - 2 * (index // 4)]
                logits[-1].append(engine.step(narrower.cuda() if index % 2 else narrower, stream, force=False).logits)
    assert sum(key[0] == "tower" and len(key) == 3 for key in engines[0].forward.graphs.kept) > 1
    for index, (ours, eager) in enumerate(zip(*logits)):
        assert close(ours, eager), index


@pytest.mark.parametrize("history", ["full", "replies"])
def test_scans_equal_eager_ones(pair, noise, family, history):
    frames, steps = noise(110), []  # three passes of 32 and one of 14: a shape is captured the second time it comes
    for engine in pair(family, history=history, max_streams=40, max_tokens=8192):
        with engine.open(query="q", logits=True) as stream:
            stream.refractory = len(frames)  # so that all of them are silent
            steps.append(engine.scan(frames, stream))
        if engine.forward.graphs:
            assert any(key[0] == "decoder" for key in engine.forward.graphs.kept)
    for ours, eager in zip(*steps):
        assert not ours.speak and close(ours.logits, eager.logits), ours.index


def test_eviction_and_capture_go_together(pair, golden, noise):
    logits = []
    for engine in pair("qwen2_5_vl", max_tokens=256):
        with engine.open(query="Tell me.", system="Watch.", logits=True) as stream:
            for frame in noise(60):
                step = engine.step(frame, stream, force=False)
            logits.append(step.logits)
    assert close(*logits)


def test_the_same_inputs_give_bitwise_the_same_decision(pair, golden):
    data = golden("qwen2_5_vl")
    engine, _ = pair("qwen2_5_vl")
    with engine.open(query=data.query, logits=True) as stream:
        for index in range(5):
            engine.step(data.frame(index), stream, force=False)
        results = []
        for _ in range(4):
            with stream.fork() as fork:
                results.append(engine.step(data.frame(5), fork, force=False).logits)
    assert all(torch.equal(result, results[0]) for result in results[1:])


def test_nan_features_still_raise(pair, golden):
    from evostreaming.engine.errors import FrameError

    data = golden("qwen2_5_vl")
    engine, _ = pair("qwen2_5_vl")
    with engine.open() as stream:
        for index in range(4):
            engine.step(data.frame(index), stream, force=False)
        bias = engine.model.tower.merger.fc2.bias
        kept = bias.clone()
        bias.fill_(float("nan"))
        with pytest.raises(FrameError, match="NaN"):
            engine.step(data.frame(4), stream)
        bias.copy_(kept)
        assert engine.step(data.frame(4), stream, force=False).index == 4
