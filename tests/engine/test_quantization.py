"""fp8 for the products of decoder and tower: what is quantized, what it costs, and what is refused."""

import copy
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import evostreaming
from evostreaming import Engine
from evostreaming.engine import checkpoint, decoder
from evostreaming.engine.checkpoint import load_model, random_model
from evostreaming.engine.config import ModelConfig
from evostreaming.engine.errors import ArgumentError
from evostreaming.engine.locate import locate
from evostreaming.engine.quantization import MULTIPLE, check_quantization, quantize_model
from evostreaming.engine.video import open_source
from evostreaming.engine.vision import linear as tower_linear
from evostreaming.kernels.gemm import quantize_weight
from evostreaming.kernels.product import Product
from evostreaming.kernels.quantize import FP8, Quantized

CLIPS = Path(evostreaming.__file__).parent / "assets" / "clips"
LAYER, BLOCK = {"gate_up", "down"}, {"attention.qkv", "gate_up", "fc1", "fc2", "down"}


@pytest.fixture(params=["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl3_5", "minicpm_v_4_5"])
def model(golden, request):
    """A model of that family with random weights in float32, whose tower has sizes that fp8 takes."""
    config = golden(request.param).config
    heads = config.vision.heads
    vision = replace(config.vision, hidden=32 * heads, intermediate=160)
    return random_model(replace(config, vision=vision))


def test_the_mlps_of_layers_and_the_products_of_blocks_are_in_fp8_and_nothing_else(model):
    quantize_model(model)
    for part, runs, products in ((model.decoder, "layers", LAYER), (model.tower, "blocks", BLOCK)):
        parts = [name for name, parameter in part.named_parameters() if parameter.dtype == FP8]
        assert len(parts) == (2 * len(part.layers) - 2 if runs == "layers" else 3 * len(part.blocks))
        assert {name.split(".", 2)[2] for name in parts} <= {f"{name}.weight" for name in products}
        assert all(name.startswith(runs) for name in parts)
    assert [layer.down.weight.dtype == FP8 for layer in model.decoder.layers[:3]] == [False, False, True]


def test_a_tower_in_fp8_sees_nearly_what_it_saw(model):
    """A wrong scale or a bias left out anywhere is off by far more than the roundings of a tower of two or three blocks."""
    grids = [(8, 10), (4, 6)]
    rows = torch.randn(sum(gh * gw for gh, gw in grids), 3 * model.tower.config.patch**2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model.tower(rows, grids)
        quantize_model(model)
        after = model.tower(rows, grids)
    for got, truth in zip(after, before):
        if truth is not None:
            assert 1e-4 < ((got - truth).norm() / truth.norm()).item() < 0.15


def test_a_block_of_odd_sizes_keeps_what_does_not_fit(golden):
    model = copy.deepcopy(golden("qwen3_vl").model)
    quantize_model(model)
    block = model.tower.blocks[0]
    for linear in (block.attention.qkv, block.fc1, block.fc2):
        assert linear.fp8 == (not any(side % MULTIPLE for side in linear.weight.shape))


def test_every_weight_row_is_within_a_rounding_of_what_it_was(golden):
    model = copy.deepcopy(golden("qwen2_5_vl").model)
    before = model.decoder.layers[2].down.weight.clone()
    quantize_model(model)
    down = model.decoder.layers[2].down
    error = (down.weight.float() * down.scales[:, None] - before).abs()
    assert (error <= before.abs() / 16 + down.scales[:, None] * 2**-9).all()
    assert down.short_scales.dtype == torch.bfloat16 and torch.equal(down.short_scales.float(), down.scales)


def test_decisions_stay_near_those_of_the_unquantized_model(make_engine, golden):
    """The twins on a CPU; a wrong scale anywhere is off by far more than the 0.2 of two roundings a product in a model this small."""
    data = golden("qwen2_5_vl")
    engine = make_engine(data)

    def watch():
        with engine.open(query=data.query, logits=True) as stream:
            return torch.stack([engine.step(data.frame(index), stream, force=False).logits for index in range(3)])

    truth = watch()
    quantize_model(engine.model)
    logits = watch()
    distance = ((logits - truth).norm() / truth.norm()).item()
    assert 1e-4 < distance < 0.2, distance


def test_few_tokens_meet_weights_in_fp8_without_a_rounding_of_their_own(golden, make_engine):
    """In a model of four layers: two keep `down`, and the last one sees the row of the decision alone."""
    engine = make_engine(golden("qwen2_vl"))
    quantize_model(engine.model)
    rows = []
    for layer in engine.model.decoder.layers[:3]:
        layer.down.register_forward_hook(lambda module, inputs, out: rows.append((inputs[0], out)))
    with engine.open() as stream:
        engine.step(golden("qwen2_vl").frame(0), stream, force=False)
    assert not any(isinstance(x, Quantized) for x, _ in rows[:2]), "down of the first two layers stays"
    wide, out = rows[2]
    assert isinstance(wide, Quantized) and isinstance(out, Product), "a frame's tokens are quantized"
    down = engine.model.decoder.layers[2].down
    x = torch.randn(8, down.weight.shape[1], generator=torch.Generator().manual_seed(0))
    assert torch.allclose(down(x), x @ (down.weight.float() * down.scales[:, None]).t(), atol=1e-5)
    with engine.open() as stream:
        engine.step(golden("qwen2_vl").frame(0), stream, force=False)
        del rows[:]
        engine.generate(stream, "What do you see?", max_tokens=3)
    assert [isinstance(x, Quantized) for x, _ in rows[2::3]] == [True, False, False], "those of a prompt are, a reply's are not"


def test_the_built_in_model_decides_in_fp8_nearly_as_in_bfloat16():
    """The products of attention in fp8 too would be off by 0.024."""
    clip, logits = CLIPS / "demo.mp4", []
    for fp8 in (False, True):
        engine = Engine.from_pretrained("tiny", device="cpu", dtype="bfloat16", adapter="tiny-evolved")
        if fp8:
            quantize_model(engine.model)
        with open_source(clip, fps=0.5) as source, engine.open(query="What is on the sign?", logits=True) as stream:
            logits.append(torch.stack([engine.step(frame.pixels, stream, time=frame.time, force=False).logits for frame in source]))
    distance = ((logits[0] - logits[1]).norm() / logits[0].norm()).item()
    assert 1e-3 < distance < 0.02, distance


@pytest.mark.parametrize(
    ("kind", "device", "dtype", "says"),
    [
        ("int4", "cpu", torch.bfloat16, 'neither None nor "fp8"'),
        ("fp8", "cpu", torch.bfloat16, "needs a CUDA device"),
        ("fp8", "cpu", torch.float32, "needs a CUDA device"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(golden, kind, device, dtype, says):
    with pytest.raises(ArgumentError, match=says):
        check_quantization(kind, torch.device(device), dtype, golden("qwen2_5_vl").config.decoder)


@pytest.mark.parametrize(("capability", "dtype", "says"), [((8, 0), torch.bfloat16, "has 8.0"), ((9, 0), torch.float16, "goes with dtype")])
def test_an_older_gpu_and_another_dtype_are_refused(golden, monkeypatch, capability, dtype, says):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    with pytest.raises(ArgumentError, match=says):
        check_quantization("fp8", torch.device("cuda"), dtype, golden("qwen2_5_vl").config.decoder)


def test_sizes_that_the_tensor_cores_do_not_take_are_refused(golden, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    config = copy.copy(golden("qwen2_5_vl").config.decoder)
    object.__setattr__(config, "intermediate", 100)
    with pytest.raises(ArgumentError, match="has 100"):
        check_quantization("fp8", torch.device("cuda"), torch.bfloat16, config)


@pytest.mark.gpu
def test_an_engine_in_fp8_answers_as_one_in_bfloat16_with_graphs(make_engine, noise):
    """The built-in model: the golden checkpoints have sizes that fp8 does not take."""
    logits = []
    for quantization in (None, "fp8"):
        engine = make_engine("tiny", device="cuda", dtype="bfloat16", quantization=quantization)
        with engine.open(query="What is on the sign?", logits=True) as stream:
            logits.append(torch.stack([engine.step(frame, stream, force=False).logits for frame in noise(8)]))
    distance = ((logits[0] - logits[1]).norm() / logits[0].norm()).item()
    assert 1e-4 < distance < 0.1, distance


def test_loading_in_fp8_frees_each_weight_before_the_next(monkeypatch):
    seen, alive = [], []
    monkeypatch.setattr(checkpoint, "check_quantization", lambda *_: None)

    def watched(weight):
        alive.append(sum(earlier() is not None for earlier in seen))
        seen.append(weakref.ref(weight))
        return quantize_weight(weight)

    for room in (decoder, tower_linear):
        monkeypatch.setattr(room, "quantize_weight", watched)
    directory = locate("tiny")
    load_model(directory, ModelConfig.from_directory(directory), quantization="fp8")
    assert len(alive) > 20 and not any(alive)


@pytest.mark.gpu
def test_loading_in_fp8_holds_no_second_model():
    directory = locate("tiny")
    config = ModelConfig.from_directory(directory)
    plain = load_model(directory, config, "cuda", torch.bfloat16)
    size = sum(p.numel() * p.element_size() for part in (plain.decoder, plain.tower) for p in part.parameters())
    del plain
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    begin = torch.cuda.memory_allocated()
    load_model(directory, config, "cuda", torch.bfloat16, quantization="fp8")
    assert torch.cuda.max_memory_allocated() - begin < 1.4 * size
