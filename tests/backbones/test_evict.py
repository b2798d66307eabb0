"""Every family driven through twenty windows: the logits are those of the retained tokens."""

import json
import re

import pytest
from safetensors.torch import save_file

from evostreaming.engine.tensor_files import TensorFiles

WINDOW = 256
DEEPER_LAYER = re.compile(r"(?<!encoder)\.layers\.[1-9]")


@pytest.fixture
def one_layer(data, tmp_path):
    """The checkpoint with its first decoder layer alone: there, keys depend on the token and its place only, so a cache that has evicted
    must equal a fresh prefill of the retained tokens."""
    for file in data.checkpoint.iterdir():
        if ".safetensors" not in file.name:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((data.checkpoint / "config.json").read_text())
    text = config.get("text_config", config)
    text["num_hidden_layers"] = 1
    for key in ("max_window_layers", "layer_types"):
        text.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    files = TensorFiles(data.checkpoint)
    kept = {name: files.tensor(name) for name in files.names if not DEEPER_LAYER.search(name)}
    save_file(kept, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize("history", ["full", "replies"])
def test_after_20_windows_the_logits_are_a_fresh_prefill_of_the_retained_tokens(
    data, one_layer, make_engine, place, reference, at_decision, noise, close, history
):
    engine = make_engine(one_layer, max_tokens=WINDOW, history=history, **place)
    assert engine.config.decoder.layers == 1
    frames = noise(20 * WINDOW // (data.turns[0]["visual_len"] + 7))  # a turn costs seven tokens round its frame, or more
    with engine.open(query="Tell me.", system="Watch.", logits=True) as stream:
        for index, frame in enumerate(frames):
            if index == 20:
                stream.ask("And now?")
            step = engine.step(frame, stream, force="yes" if index % 7 == 3 and index + 1 < len(frames) else False)
        shown = [frames[span.turn] for span in stream.context.window if span.kind == "frame"]
        tokens = at_decision(engine, stream)
        assert 2 <= len(shown) <= WINDOW // data.turns[0]["visual_len"] and len(tokens) <= WINDOW
        text = data.format.decode(tokens)
        assert "Watch." in text and "Tell me." in text and "And now?" in text
        assert stream.context.window[0].position > 3 * WINDOW  # the window never moved
        expected = reference(data, one_layer)(engine, tokens, shown)
    assert close(step.logits, expected)
