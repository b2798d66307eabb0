"""Wrong input gets one clear error, and nothing that was there is lost."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from evostreaming.engine import turn
from evostreaming.engine.errors import (
    ArgumentError,
    CheckpointError,
    EngineBusy,
    FrameError,
    NumericsError,
    OutOfPages,
    StreamClosed,
    TextTooLong,
)
from evostreaming.engine.gate import Gate


@pytest.fixture
def data(golden):
    return golden("qwen2_5_vl")


def state(stream):
    return stream.context.tokens, stream.pending, stream.query, stream.index, stream.refractory, stream.context.next_position


BAD_FRAMES = {
    "float": torch.zeros(112, 140, 3),
    "rank": torch.zeros(112, 140, dtype=torch.uint8),
    "channels": torch.zeros(3, 112, 140, dtype=torch.uint8),
    "alpha": np.zeros((112, 140, 4), np.uint8),
    "numpy float": np.zeros((112, 140, 3), np.float32),
    "empty": torch.zeros(0, 140, 3, dtype=torch.uint8),
    "a path": "frame.png",
    "a sliver": torch.zeros(2, 1000, 3, dtype=torch.uint8),
}


@pytest.mark.parametrize("frame", BAD_FRAMES.values(), ids=BAD_FRAMES.keys())
def test_a_wrong_frame_raises_and_no_stream_of_the_batch_moves(make_engine, data, frame):
    engine = make_engine(data)
    with engine.open(query="q") as good, engine.open() as bad:
        before = state(good), state(bad), engine.cache.free
        with pytest.raises(FrameError):
            engine.step([data.frame(0), frame], streams=[good, bad])
        assert (state(good), state(bad), engine.cache.free) == before
        engine.step([data.frame(0), data.frame(1)], streams=[good, bad])


def test_numpy_pil_torch_and_dlpack_frames_are_one(make_engine, data):
    class Dlpack:
        def __init__(self, tensor):
            self.tensor = tensor

        def __dlpack__(self, **options):
            return self.tensor.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    frame = data.frame(0)
    forms = [frame, frame.numpy(), Image.fromarray(frame.numpy()), Dlpack(frame), frame.numpy()[::-1][::-1]]
    engine = make_engine(data)
    results = []
    for form in forms:
        with engine.open(logits=True) as stream:
            results.append(engine.step(form, stream, force=False).logits)
    assert all(torch.equal(result, results[0]) for result in results)


def test_nan_features_raise_and_name_the_frame(make_engine, data, monkeypatch):
    engine = make_engine(data)
    rows = engine.frames.patches
    monkeypatch.setattr(engine.frames, "patches", lambda frame, size: rows(frame, size) * (float("nan") if frame.sum() == 0 else 1))
    with engine.open() as good, engine.open() as bad:
        before = state(good), state(bad)
        with pytest.raises(FrameError, match="frame 1 .* NaN"):
            engine.step([data.frame(0), torch.zeros_like(data.frame(0))], streams=[good, bad])
        assert (state(good), state(bad)) == before


def test_nan_in_the_decoder_raises_and_never_silences(make_engine, data):
    engine = make_engine(data)
    with engine.open() as stream:
        engine.step(data.frame(0), stream, force=False)
        before = state(stream)
        weight = engine.model.decoder.norm.weight
        kept = weight.clone()
        weight.fill_(float("nan"))
        with pytest.raises(NumericsError):
            engine.step(data.frame(1), stream)
        assert state(stream) == before
        weight.copy_(kept)
        assert engine.step(data.frame(1), stream).index == 1


def test_out_of_pages_says_how_many_and_touches_nobody(make_engine, data):
    engine = make_engine(data, max_streams=1, max_tokens=256)
    with engine.open(logits=True) as good, engine.open() as greedy:
        engine.step(data.frame(0), good, force=False)
        with pytest.raises(OutOfPages) as caught:
            for _ in range(50):
                kept, index = state(good), greedy.index
                engine.step(data.frame(1), greedy, force=False)
        assert caught.value.free == engine.cache.free == 0 and caught.value.needed >= 1
        assert state(good) == kept and greedy.index == index
        with pytest.raises(OutOfPages):
            engine.open()
        greedy.close()
        assert engine.step(data.frame(1), good, force=False).index == 1


def test_pages_come_back(make_engine, data):
    engine = make_engine(data)
    free = engine.cache.free
    with engine.open(query="q") as stream:
        for index in range(4):
            engine.step(data.frame(index), stream)
        with stream.fork() as fork:
            engine.step(data.frame(5), fork)
    assert engine.cache.free == free == engine.cache.total
    engine.cache.allocator.check()


def test_a_closed_stream_refuses_everything(make_engine, data):
    engine = make_engine(data)
    stream = engine.open()
    stream.close()
    stream.close()
    for call in (
        lambda: engine.step(data.frame(0), stream),
        lambda: engine.scan([data.frame(0)], stream),
        lambda: engine.generate(stream, "x"),
        lambda: stream.ask("x"),
        stream.fork,
    ):
        with pytest.raises(StreamClosed):
            call()


def test_text_that_does_not_fit_is_refused_where_it_is_given(make_engine, data):
    engine = make_engine(data, max_tokens=128)
    free = engine.cache.free
    with pytest.raises(TextTooLong, match="system prompt"):
        engine.open(system="x" * 100)
    with engine.open(system="Watch.") as stream:
        before = state(stream)
        for call in (
            lambda: stream.ask("y" * 100),
            lambda: engine.step(data.frame(0), stream, force="z" * 100),
            lambda: engine.generate(stream, "y" * 100),
            lambda: engine.open(query="y" * 100),
        ):
            with pytest.raises(TextTooLong):
                call()
        assert state(stream) == before
    assert engine.cache.free == free


def test_a_second_thread_is_told_so(make_engine, data):
    engine = make_engine(data)
    stream = engine.open()
    caught = []

    def other():
        try:
            engine.step(data.frame(0), stream)
        except EngineBusy as error:
            caught.append(error)

    with engine._exclusive():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(caught) == 1 and "thread" in str(caught[0])
    assert engine.step(data.frame(0), stream, force=False).index == 0


@pytest.mark.parametrize("where", ["forward", "decide", "replied"])
def test_an_interrupt_leaves_the_stream_as_it_was(make_engine, data, monkeypatch, where):
    engine = make_engine(data, gate=Gate("softmax", 0.0))
    with engine.open(query="q", logits=True) as stream, engine.open(query="q", logits=True) as witness:
        for each in (stream, witness):
            engine.step(data.frame(0), each, force=False)
        before = state(stream)

        def interrupt(*args, **options):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            owners = {"forward": engine.forward.decoder, "decide": turn, "replied": engine.dialogue}
            patch.setattr(owners[where], where, interrupt)
            with pytest.raises(KeyboardInterrupt):
                engine.step(data.frame(1), stream)
        assert state(stream) == before
        a, b = (engine.step(data.frame(1), each).logits for each in (stream, witness))
        assert (a - b).abs().max() <= 1e-5 * data.scale


def test_batches_are_one_frame_a_stream(make_engine, data):
    engine = make_engine(data)
    with engine.open() as a, engine.open() as b:
        for frames, streams in (([data.frame(0)], [a, b]), ([data.frame(0)] * 2, [a, a]), ([], [])):
            with pytest.raises(ArgumentError):
                engine.step(frames, streams=streams)
        with pytest.raises(ArgumentError):
            engine.step([data.frame(0)] * 2, streams=[a, b], time=[1.0])
        with pytest.raises(ArgumentError):
            engine.step(data.frame(0), a, force=True)


@pytest.mark.parametrize("options", [{"mode": "argmax"}, {"threshold": 1.5}, {"refractory": -1}])
def test_a_wrong_gate_is_refused(options):
    with pytest.raises(ArgumentError):
        Gate(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"device": "cuda:99"},
        {"device": "meta"},
        {"device": "foo"},
        {"dtype": "int8"},
        {"history": "some"},
        {"max_tokens": 0},
        {"max_streams": "8"},
        {"max_reply": True},
        {"gate": "softmax"},
        {"frame_size": 448},
        {"frame_size": (0, 448)},
        {"tokens_per_frame": 0},
        {"sink_tokens": "none"},
        {"quantization": "int4"},
        {"quantization": "fp8"},  # the device is a CPU
    ],
)
def test_wrong_load_options_are_refused(make_engine, data, options):
    with pytest.raises(ArgumentError):
        make_engine(data, **options)


@pytest.mark.parametrize("time", ["x", float("nan"), float("inf"), [1.0]])
def test_a_time_that_is_no_number_of_seconds_is_refused_by_every_way_in(make_engine, data, noise, time):
    engine, (frame,) = make_engine(data), noise(1)
    with engine.open() as stream:
        before = list(stream.context.tokens)
        calls = [lambda: engine.scan([frame], stream, times=[time]), lambda: engine.submit(frame, stream, time=time)]
        if not isinstance(time, list):
            calls.append(lambda: engine.step(frame, stream, time=time))
        for call in calls:
            with pytest.raises(ArgumentError, match="seconds are accepted"):
                call()
        assert stream.context.tokens == before


def test_a_stream_of_another_engine_is_refused_by_every_call_and_nothing_is_written(make_engine, data):
    mine, other = make_engine(data), make_engine(data)
    frame = torch.zeros(64, 64, 3, dtype=torch.uint8)
    with mine.open() as own, other.open() as foreign:
        before = mine.cache.free, own.context.tokens, foreign.context.tokens
        calls = [
            lambda: mine.step(frame, foreign),
            lambda: mine.step([frame, frame], streams=[own, foreign]),
            lambda: mine.scan([frame], foreign),
            lambda: mine.submit(frame, foreign),
            lambda: mine.submit(frame, None),
            lambda: mine.generate(foreign, "What?"),
            lambda: mine.choose([own, foreign], ["Which?", "Which?"], ["a", "b"]),
            lambda: mine.likelihoods(foreign, "What?", ["this"]),
        ]
        for call in calls:
            with pytest.raises(ArgumentError, match="this engine's open"):
                call()
        assert (mine.cache.free, own.context.tokens, foreign.context.tokens) == before


def test_an_adapter_that_is_nowhere_is_called_an_adapter(make_engine, data, tmp_path):
    with pytest.raises(CheckpointError, match="PEFT directory"):
        make_engine(data, adapter=tmp_path / "nothing")


def test_a_model_that_is_nowhere_says_what_to_give(make_engine, tmp_path):
    with pytest.raises(CheckpointError, match="no such directory"):
        make_engine(tmp_path / "nothing")
