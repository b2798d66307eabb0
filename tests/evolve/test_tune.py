"""Stage 5 on every family's golden checkpoint: sequences as the engine streams them, a loss that falls, an adapter both sides can load."""

import json

import pytest
import torch

from evostreaming.engine.dialogue import Dialogue
from evostreaming.evolve.packing import group, pack
from evostreaming.evolve.sequences import REPLY, SILENCE, sequence
from evostreaming.evolve.tunable import load_tunable
from evostreaming.evolve.tune import Tuner, Tuning

TURNS = [
    {"t": 0.0, "query": "Tell me when it turns blue.", "reply": None},
    {"t": 2.0, "reply": None},
    {"t": 4.0, "reply": "It is blue."},
    {"t": 6.0, "reply": None},
]


@pytest.fixture
def watched(golden, family, make_engine, noise):
    """(data, engine, frames, decision logits) of a forced stream of TURNS."""

    def watch(history):
        data = golden(family)
        engine, frames = make_engine(data, history=history), noise(len(TURNS), 56, 84)
        logits = []
        with engine.open(system="You watch.", logits=True) as stream:
            for turn, frame in zip(TURNS, frames):
                if turn.get("query"):
                    stream.ask(turn["query"])
                logits.append(engine.step(frame, stream, time=turn["t"], force=turn["reply"] or False).logits)
            tokens = [*stream.context.tokens, *stream.pending]
        return data, engine, frames, torch.stack(logits), tokens

    return watch


def visual(engine, frames):
    size = engine.frames.size_of(frames[0])
    encoded = engine.frames.encode([engine.frames.patches(frame, size) for frame in frames], [size] * len(frames))
    deepstack = None if encoded[0].deepstack is None else torch.cat([each.deepstack for each in encoded], dim=1)
    return [(each.count, each.grid) for each in encoded], torch.cat([each.tokens for each in encoded]).clone(), deepstack


def example(data, engine, frames, turns=TURNS):
    grids, tokens, deepstack = visual(engine, frames)
    made = sequence(turns, engine.dialogue, "You watch.", grids, data.config.decoder.mrope_section is not None)
    return made, lambda: (tokens, deepstack)


@pytest.mark.parametrize("history", ["full", "replies"])
def test_a_training_sequence_gives_the_logits_the_engine_streams(watched, history):
    data, engine, frames, logits, tokens = watched(history)
    made, features = example(data, engine, frames)
    assert made.ids[made.branch == 0].tolist() == tokens
    row = pack([made, made], [features(), features()], "cpu")  # the second must not see the first
    got = load_tunable(data.checkpoint)(*row.arguments())
    first = (row.kind == SILENCE) | (row.kind == REPLY)
    assert (got[first] - torch.cat([logits, logits])).abs().max() < 1e-4 * data.scale


@pytest.mark.parametrize("history", ["full", "replies"])
def test_an_offline_sequence_is_frames_and_one_answer_as_the_engine_sees_them(golden, make_engine, noise, history):
    data, turns = golden("qwen2_5_vl"), [{"t": 0.0, "reply": None}, {"t": 2.0, "reply": None}, {"t": 4.0, "query": "Who?", "reply": "Me."}]
    frames = noise(3, 56, 84)
    grids, tokens, deepstack = visual(make_engine(data), frames)
    spatial = data.config.decoder.mrope_section is not None
    made = sequence(turns, make_engine(data, history=history).dialogue, None, grids, spatial, offline=True)
    assert (made.learned == REPLY).sum() == 1 and not (made.learned == SILENCE).any()
    row = pack([made], [(tokens, deepstack)], "cpu")
    trained = load_tunable(data.checkpoint)(*row.arguments())[row.kind == REPLY]
    engine = make_engine(data, history="replies")
    with engine.open(logits=True) as stream:
        for turn, frame in zip(turns, frames):
            if "query" in turn:
                stream.ask(turn["query"])
            streamed = engine.step(frame, stream, time=turn["t"], force=turn["reply"] or False).logits
    assert (trained[0] - streamed).abs().max() < 1e-4 * data.scale


def test_what_is_learned_is_every_assistant_turn_up_to_its_end(golden, make_engine, noise):
    data = golden("qwen2_5_vl")
    engine = make_engine(data)
    made, _ = example(data, engine, noise(len(TURNS), 56, 84))
    said = engine.dialogue.turn.tokenizer.decode(made.ids[made.learned > 0].tolist(), skip_special_tokens=False)
    assert said == "SILENT<|im_end|>" * 2 + "It is blue.<|im_end|>" + "SILENT<|im_end|>"
    assert [(made.learned == kind).sum().item() for kind in (SILENCE, REPLY)] == [3, 1]


def test_loss_falls_and_the_adapter_loads_in_the_engine_as_it_was_trained(watched, make_engine, tmp_path):
    data, engine, frames, before, _ = watched("full")
    turns = [TURNS, [{**TURNS[0], "reply": "It is blue."}, *TURNS[1:2]]] * 4
    examples = [example(data, engine, frames[: len(each)], each) for each in turns]
    settings = Tuning(rate=5e-3, batch=4, epochs=6, held_out=0)
    tuner = Tuner(data.checkpoint, examples, tmp_path / "adapter", settings, device="cpu")
    log = tuner.run()
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    made, features = examples[0]
    row = pack([made], [features()], "cpu")
    tuner.model.eval()
    with torch.no_grad():
        trained = tuner.model(*row.arguments())[row.kind < 3]
    tuned = make_engine(data, adapter=tmp_path / "adapter")
    with tuned.open(system="You watch.", logits=True) as stream:
        stream.ask(TURNS[0]["query"])
        logits = [tuned.step(frame, stream, time=turn["t"], force=turn["reply"] or False).logits for turn, frame in zip(TURNS, frames)]
    assert (torch.stack(logits) - trained).abs().max() < 2e-4 * trained.abs().max()
    assert (torch.stack(logits) - before).abs().max() > 1e-2 * data.scale


def test_the_adapter_loads_in_peft_on_the_whole_model(golden, make_engine, noise, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    data = golden("qwen2_5_vl")
    examples = [example(data, make_engine(data), noise(len(TURNS), 56, 84))]
    Tuner(data.checkpoint, examples, tmp_path, Tuning(rate=5e-3, epochs=3, held_out=0), device="cpu").run()
    whole = transformers.AutoModelForImageTextToText.from_pretrained(data.checkpoint)
    loaded = peft.PeftModel.from_pretrained(whole, tmp_path)
    changed = [p.abs().max().item() > 0 for name, p in loaded.named_parameters() if "lora_B" in name]
    assert len(changed) == 7 * data.config.decoder.layers and all(changed)


def test_a_killed_tuning_goes_on_where_it_was_saved(golden, make_engine, noise, tmp_path):
    data = golden("qwen2_5_vl")
    examples = [example(data, make_engine(data), noise(len(TURNS), 56, 84, seed=seed)) for seed in range(6)]
    settings = Tuning(rate=1e-3, batch=2, epochs=2, save_every=2, held_out=0.2)

    class Killed(Exception):
        pass

    def kill(row):
        if row["step"] == 4:
            raise Killed

    whole = Tuner(data.checkpoint, examples, tmp_path / "whole", settings, device="cpu").run()
    with pytest.raises(Killed):
        Tuner(data.checkpoint, examples, tmp_path / "cut", settings, device="cpu", on_step=kill).run()
    resumed = Tuner(data.checkpoint, examples, tmp_path / "cut", settings, device="cpu").run()
    assert [row["loss"] for row in resumed] == pytest.approx([row["loss"] for row in whole], rel=1e-4)
    assert [row["step"] for row in resumed] == [row["step"] for row in whole]
    assert json.loads((tmp_path / "cut" / "adapter_config.json").read_text())["r"] == 8


def test_rows_are_packed_up_to_a_limit_and_nothing_is_lost():
    rows = group([5, 3, 9, 2, 12], 10)
    assert sorted(place for row in rows for place in row) == [0, 1, 2, 3, 4]
    assert [12] in [[[5, 3, 9, 2, 12][place] for place in row] for row in rows]
    assert all(sum([5, 3, 9, 2, 12][place] for place in row) <= 10 for row in rows if len(row) > 1)


def test_the_word_for_silence_is_the_checkpoints_own(golden, make_engine, noise):
    data = golden("qwen2_5_vl")
    engine = make_engine(data)
    engine.streaming = type(engine.streaming)(silence="<|quiet|>")
    engine.dialogue = Dialogue(engine.dialogue.turn, engine.streaming, "full")
    made, _ = example(data, engine, noise(len(TURNS), 56, 84))
    text = engine.dialogue.turn.tokenizer.decode(made.ids[made.learned > 0].tolist(), skip_special_tokens=False)
    assert text.count("<|quiet|>") == 3 and "SILENT" not in text
