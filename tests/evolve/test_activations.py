"""Stage 5 by another way to the same gradients: activations kept or computed again, layers compiled, masks of blocks, rows filled up."""

from functools import partial

import pytest
import torch

pytest.importorskip("peft", reason="the optional dependency of stage 5 is not installed")

from torch.nn.attention import flex_attention

from evostreaming.evolve.activations import SHARE, Activations
from evostreaming.evolve.packing import pack
from evostreaming.evolve.sequences import REPLY, REST, Sequence
from evostreaming.evolve.tunable import TunableDecoder
from evostreaming.evolve.tune import Tuner, Tuning

FAR = ((20, 29), (31, 40))  # where branches stand


def example(data, length, branches=(), seed=0):
    """A sequence of noise with eight visual tokens, of which the last five of the stream and of every branch are learned."""
    generator = torch.Generator().manual_seed(seed)
    config, branch, learned = data.config.decoder, torch.zeros(length, dtype=torch.long), torch.zeros(length, dtype=torch.int8)
    for number, (begin, end) in enumerate(branches, 1):
        branch[begin:end] = number
    for end in (length, *(end for _, end in branches)):
        learned[end - 5 : end] = torch.tensor([REPLY, *[REST] * 4], dtype=torch.int8)
    ids = torch.randint(config.vocab, (length,), generator=generator)
    made = Sequence(ids, torch.arange(length).expand(3, -1), branch, learned, torch.arange(2, 10))
    tokens, deep = torch.randn(8, config.hidden, generator=generator), len(data.config.vision.deepstack)
    deepstack = torch.randn(deep, 8, config.hidden, generator=generator) if deep else None
    return made, lambda: (tokens, deepstack)


def tuner(data, out, examples, device="cpu", **options):
    """A `Tuner` whose adapter is not zero, so that every one of its matrices has a gradient."""
    made = Tuner(data.checkpoint, examples, out, Tuning(batch=len(examples), held_out=0, rate=1e-3), device=device, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learnable(made):
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def learnable(made):
    return [parameter for parameter in made.model.parameters() if parameter.requires_grad]


def gradients(made, row):
    """(loss, gradients) of a row, both float32 on the CPU."""
    made.activations.fit(len(row.ids))
    made.model.train().zero_grad()
    loss = torch.nn.functional.cross_entropy(made.model(*row.arguments()), row.target)
    loss.backward()
    return loss.item(), [parameter.grad.float().cpu() for parameter in learnable(made)]


def difference(found, wanted):
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(found, wanted, strict=True))


def rows(examples, device="cpu", **options):
    return pack([made for made, _ in examples], [features() for _, features in examples], device, **options)


@pytest.fixture
def traced(monkeypatch):
    """torch.compile that traces and does not generate code; the backward pass of flex attention, closed on a CPU, in plain products."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    yield
    torch.compiler.reset()


def test_what_is_computed_again_changes_neither_losses_nor_the_adapter(golden, family, tmp_path):
    data = golden(family)
    examples = [example(data, 40, FAR, seed) for seed in range(2)] + [example(data, 50)]
    runs = []
    for share in (0, 0.5, None):
        made = tuner(data, tmp_path, examples, room=0)
        layers = data.config.decoder.layers
        made.activations.room = float("inf") if share is None else share * layers * made.activations.bytes * 130
        log = made.run()
        runs.append((log[0]["loss"], log[0]["recomputed"], [parameter.detach().clone() for parameter in learnable(made)]))
    assert [run[1] for run in runs] == [1, (layers - layers // 2) / layers, 0]
    assert runs[0][0] == runs[1][0] == runs[2][0]
    for again, kept, both in zip(*(run[2] for run in runs)):
        assert torch.equal(again, kept) and torch.equal(again, both)


def test_the_last_layers_keep_theirs_for_theirs_is_freed_first():
    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj, self.calls = torch.nn.Linear(8, 8, bias=False), 0

        def forward(self, x):
            self.calls += 1
            return self.q_proj(x).relu()

    layers = torch.nn.ModuleList(Layer() for _ in range(4))
    activations = Activations(layers, room=3 * 5 * (8 + 8) * 4)  # of three layers, at five tokens
    assert [activations.fit(tokens) for tokens in (5, 6, 16, 1)] == [1, 2, 4, 0]
    activations.fit(5)
    hidden = torch.randn(5, 8, requires_grad=True)
    for layer in layers:
        hidden = layer(hidden)
    hidden.sum().backward()
    assert [layer.calls for layer in layers] == [2, 1, 1, 1]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_layer_keeps_no_more_than_was_estimated(compiled, monkeypatch):
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3Model

    if compiled:
        torch.compiler.reset()
        monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager_decomp_partition"))
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    text = Qwen3Model(Qwen3Config(**sizes, head_dim=16, vocab_size=32, bos_token_id=0, eos_token_id=0)).requires_grad_(False)
    model = get_peft_model(TunableDecoder(text, ("model",), torch.randn(32, 64), "none"), LoraConfig(target_modules=r".*_proj"))
    activations, length, kept = Activations(text.layers, float("inf"), compiled), 300, {}
    activations.fit(length)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids, none = torch.randint(32, (length,)), torch.zeros(0, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(ids, torch.arange(length).expand(3, -1), none, None, None, None, torch.arange(1))
    assert 0.5 < sum(kept.values()) / (2 * length * activations.bytes) < 1 / SHARE


def test_out_of_memory_a_batch_begins_anew_and_keeps_less(golden, tmp_path):
    data = golden("qwen2_5_vl")
    examples, failures = [example(data, 300, seed=seed) for seed in range(3)], []
    plain = tuner(data, tmp_path, examples)
    wanted = plain.run()

    def fail(features):
        if len(failures) < 1:
            failures.append(1)
            raise torch.OutOfMemoryError
        return features()

    broken = [*examples[:2], (examples[2][0], partial(fail, examples[2][1]))]
    made = tuner(data, tmp_path, broken)
    log = made.run()
    assert failures and log[0]["loss"] == wanted[0]["loss"]
    assert (wanted[0]["recomputed"], log[0]["recomputed"]) == (0, pytest.approx(2 / 3))  # one of three layers fits the half
    for found, other in zip(learnable(made), learnable(plain)):
        assert torch.equal(found, other)


def test_out_of_memory_with_nothing_kept_is_an_error(golden, tmp_path):
    def fail():
        raise torch.OutOfMemoryError("no memory at all")

    data = golden("qwen2_5_vl")
    with pytest.raises(torch.OutOfMemoryError, match="at all"):
        tuner(data, tmp_path, [(example(data, 40)[0], fail)], room=0).run()


@pytest.mark.parametrize("branches", [(), FAR])
def test_filling_a_row_up_changes_no_gradient(golden, family, tmp_path, branches):
    data = golden(family)
    examples = [example(data, 45, branches)]
    made = tuner(data, tmp_path, examples)
    bare, filled = rows(examples), rows(examples, multiple=64)
    assert (bare.padding, len(filled.ids), filled.padding) == (0, 64, 19)
    loss, wanted = gradients(made, bare)
    again, found = gradients(made, filled)
    assert again == pytest.approx(loss, rel=1e-5) and difference(found, wanted) < 1e-4


def test_compiled_layers_and_masks_of_blocks_give_the_gradients_of_dense_ones(golden, family, tmp_path, traced):
    data = golden(family)
    pairs = [[example(data, length, FAR, length), example(data, 45, (), 1)] for length in (301, 150)]
    made, plain = (tuner(data, tmp_path, pairs[0], compiled=compiled) for compiled in (True, False))
    # All layers and rows of all lengths share what the first row's first layer compiled, whether they are computed again or not.
    with torch._dynamo.config.patch(error_on_recompile=True):
        for examples in pairs:
            loss, found = gradients(made, rows(examples, multiple=64, blocks=True))
            wanted_loss, wanted = gradients(plain, rows(examples))
            assert loss == pytest.approx(wanted_loss, rel=1e-5) and difference(found, wanted) < 1e-4
            made.activations.room = 0


@pytest.mark.gpu
@pytest.mark.parametrize("branches", [(), FAR])
def test_on_a_gpu_compiled_layers_in_bfloat16_stay_as_near_to_float32(golden, family, tmp_path, branches):
    from accelerate.state import AcceleratorState

    data = golden(family)
    torch.compiler.reset()
    examples = [example(data, 700, branches, 1), *([example(data, 300, (), 2)] if branches else [])]
    away = {}
    for device, compiled in (("cpu", False), (None, False), (None, True)):
        AcceleratorState._reset_state(reset_partial_state=True)  # a process has one device and one precision for good
        made = tuner(data, tmp_path, examples, device, compiled=compiled)
        where = {"device": "cpu"} if device else {"device": "cuda", "multiple": 512, "blocks": compiled}
        for room in (float("inf"), 0):
            made.activations.room = room
            loss, found = gradients(made, rows(examples, **where))
            found = torch.cat([each.flatten() for each in found])
            if not away:
                truth, wanted = loss, found
            off = away[device, compiled, room] = ((found - wanted).norm() / wanted.norm()).item()
            print(f"{data.family} {device} compiled={compiled} room={room}: loss {loss:.4f}, gradients off by {off:.4f}")
            assert loss == pytest.approx(truth, rel=0.02)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert max(away.values()) < 1.5 * away[None, False, 0] + 0.01
