"""One golden checkpoint after the other, and the reference implementation on any sequence of tokens and frames."""

import json

import pytest
import torch

from evostreaming.engine.pixels import grid
from evostreaming.engine.tensor_files import TensorFiles


@pytest.fixture
def data(golden, family):
    """The golden checkpoint and trace of each family in turn."""
    return golden(family)


@pytest.fixture
def relative_error():
    """Largest deviation relative to the largest expected value."""
    return lambda got, expected: ((got - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def official_pixels(rows, shape, patch):
    """Patch rows in 2 x 2 blocks -> the image (3, H, W)."""
    gh, gw = shape
    blocks = rows.view(gh // 2, gw // 2, 2, 2, 3, patch, patch)
    return blocks.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, gh * patch, gw * patch)


def native_model(directory):
    """The transformers class of a checkpoint in float32, or None if the library has none."""
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, json.loads((directory / "config.json").read_text())["architectures"][0], None)
    return kind and kind.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()


def language_model(directory):
    """The decoder alone, as the library's own class for it."""
    import transformers

    config = transformers.Qwen3Config(**json.loads((directory / "config.json").read_text()))
    model = transformers.Qwen3ForCausalLM._from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    files = TensorFiles(directory)
    names = [name for name in files.names if name.startswith("llm.")]
    model.load_state_dict({name.removeprefix("llm."): files.tensor(name) for name in names})
    return model


@pytest.fixture
def reference():
    """reference(data, directory) -> logits(engine, tokens, frames): next-token logits after the tokens, in one pass from position zero.

    transformers does everything but the resize where it has the architecture. Elsewhere it does the decoder, on the features of the
    float32 tower, which `test_features` holds to the golden values. The engine of the call gives the frames' sizes and patch rows.
    """

    def load(data, directory):
        native = native_model(directory)
        model = native or language_model(directory)

        def logits(engine, tokens, frames):
            sizes = [engine.frames.size_of(frame) for frame in frames]
            grids = [grid(data.config.pixels, *size) for size in sizes]
            rows = [engine.frames.patches(frame.to(engine.device), size).float().cpu() for frame, size in zip(frames, sizes)]
            ids = torch.tensor([tokens])
            seen = ids == data.format.visual_id
            assert int(seen.sum()) == sum(data.model.tower.tokens(*each) for each in grids)
            if native is None:
                embedded = model.get_input_embeddings()(ids)
                embedded[seen] = data.model.tower(torch.cat(rows), grids).tokens
                inputs = {"inputs_embeds": embedded}
            elif data.config.decoder.mrope_section is None:
                images = [official_pixels(each, shape, data.config.vision.patch) for each, shape in zip(rows, grids)]
                inputs = {"input_ids": ids, "pixel_values": torch.stack(images)}
            else:
                pairs = [each.view(len(each), 3, 1, -1).expand(-1, 3, 2, -1).flatten(1) for each in rows]
                shapes = torch.tensor([(1, *each) for each in grids])
                inputs = {"input_ids": ids, "pixel_values": torch.cat(pairs), "image_grid_thw": shapes, "mm_token_type_ids": seen.int()}
            return model(**inputs, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -1]

        return logits

    return load


@pytest.fixture(params=[pytest.param(("cpu", "float32"), id="cpu"), pytest.param(("cuda", "bfloat16"), id="gpu", marks=pytest.mark.gpu)])
def place(request):
    """Options of an engine in float32 on the CPU, and in bfloat16 on a GPU."""
    return dict(zip(("device", "dtype"), request.param))


@pytest.fixture
def close():
    """close(logits, expected): within the rounding of the place that the logits come from."""

    def check(got, expected):
        if got.device.type == "cpu":
            return (got - expected).abs().max() <= 1e-4 * expected.abs().max()
        return torch.linalg.norm(got.cpu() - expected) <= 0.03 * torch.linalg.norm(expected)

    return check


@pytest.fixture
def at_decision():
    """at_decision(engine, stream, silent=True) -> ids the last decision of a stream was taken on."""

    def ids(engine, stream, silent=True):
        prompt = engine.dialogue.prompt
        taken_back = len(prompt) if silent and engine.dialogue.history == "replies" else engine.dialogue.taken_back
        return [*stream.context.tokens, *prompt[len(prompt) - taken_back :]]

    return ids
