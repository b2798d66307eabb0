"""CUDA graphs change when work is launched, never what is computed."""

import pytest
import torch

from evostreaming.engine.gate import Gate

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
        assert any(key[0] == "tower" for key in kept) and any(isinstance(key[0], int) for key in kept)
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
