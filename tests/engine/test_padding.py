"""What the padded, staged passes behind CUDA graphs compute, with a capture that runs on the CPU: the same as without."""

import pytest
import torch

from evostreaming.engine import graphs as module
from evostreaming.engine.errors import FrameError, OutOfPages
from evostreaming.engine.gate import Gate
from evostreaming.engine.graphs import Graphs, round_streams, round_tokens


class Rerun(Graphs):
    """Capture as a CUDA graph does it: the same function on the same input tensors, its results in the same output tensors. Those are lost
    when another graph runs: graphs share their memory."""

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.results = []

    def capture(self, function):
        self.bytes += 1
        result = function()
        self.results.append(result)

        def replay(_):
            spoil([other for other in self.results if other is not result])
            copy_into(result, function())

        return type("Graph", (), {"replay": replay})(), result


def spoil(results):
    if isinstance(results, torch.Tensor):
        results.fill_(torch.nan)
    elif results is not None:
        for part in results:
            spoil(part)


def copy_into(old, new):
    if isinstance(old, torch.Tensor):
        old.copy_(new)
    elif old is not None:
        for parts in zip(old, new, strict=True):
            copy_into(*parts)


@pytest.fixture
def pair(make_engine, golden):
    """pair(family, **options) -> (engine whose passes are padded and replayed, plain engine)."""

    def make(family, **options):
        engines = [make_engine(golden(family), **options) for _ in range(2)]
        engines[0].forward.graphs = engines[0].frames.graphs = Rerun()
        return engines

    return make


def decoder_shapes(engine):
    return [key for key in engine.forward.graphs.kept if key[0] == "decoder"]


def test_padding_costs_little_and_shapes_are_few():
    for count in range(1, 5000):
        assert 0 <= round_tokens(count) - count < max(16, count / 16)
    assert len({round_tokens(count) for count in range(1, 4097)}) <= 150
    assert [round_streams(count) for count in range(1, 14)] == [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16]


def test_a_stream_with_queries_and_replies(pair, golden, family):
    data = golden(family)
    steps = []
    for engine in pair(family):
        with engine.open(query=data.query, logits=True) as stream:
            steps.append([])
            for index in range(14):
                if index % 5 == 4:
                    stream.ask(f"And now, {index}?")
                force = "A longer reply than before." if index % 6 == 2 else False
                steps[-1].append(engine.step(data.frame(index), stream, time=float(index), force=force))
    for ours, plain in zip(*steps):
        assert (ours.logits - plain.logits).abs().max() <= 1e-5 * data.scale, ours.index
        assert ours.probability == pytest.approx(plain.probability, abs=1e-5)


def run_batches(engine, data, counts):
    """Batches of so many streams of different lengths: (logits of every step, tokens every stream can see)."""
    streams = [engine.open(query="q" * (1 + 20 * index), logits=True) for index in range(max(counts))]
    logits = []
    for turn, count in enumerate(counts):
        forces = ["Yes, it did.", False, False, False, False][:count]
        shown = [data.frame(turn + place) for place in range(count)]
        logits += [step.logits for step in engine.step(shown, streams=streams[:count], force=forces)]
    return torch.stack(logits), [stream.context.tokens for stream in streams]


def test_batches_that_grow_and_shrink(pair, golden, family):
    data = golden(family)
    engines = pair(family, max_streams=5)
    (ours, seen), (plain, plainly_seen) = (run_batches(engine, data, [5, 5, 5, 4, 3, 5, 2, 5, 1, 5, 5]) for engine in engines)
    assert (ours - plain).abs().max() <= 1e-5 * data.scale
    assert seen == plainly_seen
    assert any(key[1] == 6 for key in decoder_shapes(engines[0]))  # five streams in the place of six


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
@torch.inference_mode()
def test_what_padding_holds_reaches_nobody(pair, golden, family):
    """The features of a padded pass hold NaN wherever the frames at hand do not write."""
    data = golden(family)
    engine, plain = pair(family, max_streams=5)
    results = []
    for each in (engine, plain):
        streams = [each.open(logits=True) for _ in range(5)]
        for turn in range(4):
            for key in decoder_shapes(engine) if each is engine else ():
                graph = engine.forward.graphs.kept[key]
                for buffer in (graph.features, graph.deepstack):
                    if buffer is not None:
                        buffer.fill_(torch.nan)
            steps = each.step([data.frame(turn + place) for place in range(5)], streams=streams, force=False)
        results.append(torch.stack([step.logits for step in steps]))
    assert decoder_shapes(engine)
    assert (results[0] - results[1]).abs().max() <= 1e-5 * data.scale


def test_a_bad_frame_raises_and_its_shape_goes_on_working(pair, golden):
    data = golden("qwen2_5_vl")
    engine, _ = pair("qwen2_5_vl")
    rows = engine.frames.patches
    with engine.open() as stream:
        for index in range(4):
            engine.step(data.frame(index), stream, force=False)
        engine.frames.patches = lambda *frame: rows(*frame) * torch.nan
        with pytest.raises(FrameError, match="NaN"):
            engine.step(data.frame(4), stream)
        engine.frames.patches = rows
        assert engine.step(data.frame(4), stream, force=False).index == 4


def test_frames_of_any_shape_and_place(pair, noise):
    """Preprocessing is part of the tower's capture for a few shapes of frames; all others are served too."""
    logits, engines = [], pair("qwen2_5_vl")
    for engine in engines:
        with engine.open(logits=True) as stream:
            logits.append([])
            for index, frame in enumerate(noise(24)):
                narrower = frame[:, : frame.shape[1] - 2 * (index // 4)]  # not contiguous; a shape comes four times
                shown = narrower.numpy() if index % 2 else narrower
                logits[-1].append(engine.step(shown, stream, force=False).logits)
    for ours, plain in zip(*logits):
        assert (ours - plain).abs().max() <= 1e-5 * plain.abs().max()
    shapes = [key for key in engines[0].forward.graphs.kept if key[0] == "tower" and len(key) == 3]
    assert len(shapes) == module.FRAME_SHAPES < 6
    assert ("tower", shapes[0][1]) in engines[0].forward.graphs.kept


def test_free_replies_of_several_streams(pair, golden):
    data = golden("qwen2_5_vl")
    engines = pair("qwen2_5_vl", gate=Gate("softmax", 0.0), max_reply=12)
    texts = []
    for engine in engines:
        streams = [engine.open(query=data.query) for _ in range(3)]
        steps = [engine.step([data.frame(index + place) for place in range(3)], streams=streams) for index in range(4)]
        texts.append([(step.text, step.tokens) for batch in steps for step in batch])
    assert texts[0] == texts[1]
    assert any(key[:4] == ("tokens", 3, 3, 1) for key in engines[0].forward.graphs.kept)


def test_passes_that_keep_the_device_busy_are_not_captured(pair, golden):
    data = golden("qwen2_5_vl")
    engine, _ = pair("qwen2_5_vl")
    engine.forward.weights, engine.frames.weights = 1e12, 1e12
    with engine.open() as stream:
        for index in range(4):
            engine.step(data.frame(index), stream, force=False)
    assert engine.captures == (0, 0)


def held(stream):
    """Everything a stream's context says about itself."""
    context = stream.context
    return context.tokens, context.window, context.sinks, context.next_position, context.table.length, len(context.table.pages)


@pytest.mark.parametrize("max_tokens", [4096, 256])
def test_replies_decoded_ahead_leave_what_replies_decoded_in_step_leave(pair, golden, monkeypatch, max_tokens):
    """Replies that end at different tokens, over the ends of pages and through evictions; at most one pass of a step is thrown away."""
    launches, launch = [], module.TokenGraph.launch
    monkeypatch.setattr(module.TokenGraph, "launch", lambda graph, place: launches.append(place) or launch(graph, place))
    data = golden("qwen2_5_vl")
    engines = pair("qwen2_5_vl", gate=Gate("softmax", 0.0), max_reply=70, max_tokens=max_tokens)
    plain = engines[1]
    with plain.open(query=data.query) as stream:
        plain.step(data.frame(0), stream)
        heard = stream.pending[0], *(span.ids[0] for span in stream.context.window[-60:] if len(span.ids) == 1)
    results = []
    for engine in engines:
        engine.dialogue.turn.end_ids = {heard[20], heard[45]}
        streams = [engine.open(query=data.query + "?" * index) for index in range(3)]
        results.append([])
        for turn in range(5):
            launches.clear()
            steps = engine.step([data.frame(turn + place) for place in range(3)], streams=streams)
            assert len(launches) <= 1 + max(step.tokens for step in steps)
            results[-1] += [(step.text, step.tokens, held(stream), stream.pending) for step, stream in zip(steps, streams)]
    assert results[0] == results[1]
    assert len({tokens for _, tokens, _, _ in results[0]}) > 3  # they did end at different tokens
    assert any(key[0] == "tokens" for key in engines[0].forward.graphs.kept)


def test_a_reply_that_runs_out_of_pages_does_so_at_the_same_token(pair, golden):
    data = golden("qwen2_5_vl")
    results = []
    for engine in pair("qwen2_5_vl", gate=Gate("softmax", 0.0), max_reply=30, max_tokens=512, max_streams=1):
        with engine.open(query=data.query) as stream:
            for turn in range(3):
                engine.step(data.frame(turn), stream)
            engine.max_reply = 400
            spare = engine.cache.allocate(engine.cache.free, "a test")
            before = held(stream)
            with pytest.raises(OutOfPages) as caught:
                engine.step(data.frame(3), stream)
            assert held(stream) == before
            engine.cache.allocator.release(spare)
            engine.max_reply = 30
            results.append((str(caught.value), engine.step(data.frame(3), stream).text, held(stream)))
    assert results[0] == results[1]


@pytest.mark.parametrize("history", ["full", "replies"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "minicpm_v_4_5"])
def test_scan(pair, golden, noise, family, history):
    frames = noise(40)
    data = golden(family)
    engines = pair(family, history=history, gate=Gate("greedy"), max_streams=40)
    steps = []
    for engine in engines:
        with engine.open(query=data.query, logits=True) as stream:
            steps.append(engine.scan(frames, stream))
    for ours, plain in zip(*steps):
        assert (ours.logits - plain.logits).abs().max() <= 1e-5 * data.scale, ours.index
        assert (ours.speak, ours.text) == (plain.speak, plain.text)
    assert decoder_shapes(engines[0])


def test_eviction_and_replay_go_together(pair, noise):
    logits = []
    for engine in pair("qwen2_5_vl", max_tokens=256):
        with engine.open(query="Tell me.", system="Watch.", logits=True) as stream:
            for frame in noise(40):
                step = engine.step(frame, stream, force=False)
            logits.append(step.logits)
    assert (logits[0] - logits[1]).abs().max() <= 1e-5 * logits[1].abs().max()


def test_captures_are_bounded_in_number_and_memory(pair, golden, monkeypatch):
    data = golden("qwen2_5_vl")
    engine, _ = pair("qwen2_5_vl", max_streams=5)
    assert engine.captures == (0, 0)
    monkeypatch.setattr(module, "KEPT", 3)
    run_batches(engine, data, [5, 5, 4, 4, 3, 3, 2, 2, 1, 1] * 2)
    count, size = engine.captures
    assert count == 3 and size > 3
    engine.forward.graphs.limit = size
    run_batches(engine, data, [2, 2, 2, 2])
    assert engine.captures == (3, size)
