"""PEFT LoRA adapters merged at load, against PEFT's own merge and against the formula."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import save_file

from evostreaming.engine.checkpoint import load_model, named_parameters
from evostreaming.engine.config import ModelConfig
from evostreaming.engine.errors import CheckpointError

DECODER = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TARGETS = {
    "qwen2_vl": [*DECODER, "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "lm_head"],
    "qwen2_5_vl": [*DECODER, "attn.qkv", "attn.proj", "merger.mlp.0"],
    "qwen3_vl": [*DECODER, "attn.qkv", "linear_fc1", "linear_fc2"],
    "internvl3_5": [*DECODER, "fc1", "fc2", "projection_layer", "linear_1", "linear_2", "lm_head"],
}


def reference(data):
    import transformers

    architecture = json.loads((data.checkpoint / "config.json").read_text())["architectures"][0]
    return getattr(transformers, architecture).from_pretrained(data.checkpoint, dtype=torch.float32)


def write_adapter(directory, tensors, **config):
    directory.mkdir(exist_ok=True)
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "lora_alpha": 6, "r": 3} | config))
    save_file({f"base_model.model.{name}": tensor for name, tensor in tensors.items()}, directory / "adapter_model.safetensors")
    return directory


def pair(module, rows, columns, rank=3, seed=0):
    """The two tensors of one LoRA module."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, columns, generator=generator), torch.randn(rows, rank, generator=generator)
    return {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}, b @ a


@pytest.mark.parametrize("rank_stabilized", [False, True])
@pytest.mark.parametrize("family", TARGETS)
def test_the_merge_equals_pefts_own(golden, relative_error, tmp_path, family, rank_stabilized):
    peft = pytest.importorskip("peft")
    data = golden(family)
    patterns = {"rank_pattern": {"o_proj": 2}, "alpha_pattern": {"o_proj": 9}}
    settings = peft.LoraConfig(r=3, lora_alpha=7, target_modules=TARGETS[family], use_rslora=rank_stabilized, **patterns)
    tuned = peft.get_peft_model(reference(data), settings)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    tuned.save_pretrained(tmp_path / "adapter")
    merged = tmp_path / "merged"
    shutil.copytree(data.checkpoint, merged, ignore=shutil.ignore_patterns("*.safetensors*"), copy_function=shutil.copyfile)
    merged.chmod(0o755)
    tuned.merge_and_unload().save_pretrained(merged)
    expected = dict(named_parameters(load_model(merged, ModelConfig.from_directory(merged))))
    base = dict(named_parameters(data.model))
    changed = 0
    for name, parameter in named_parameters(load_model(data.checkpoint, data.config, adapter=tmp_path / "adapter")):
        assert relative_error(parameter, expected[name]) < 1e-6, name
        changed += not torch.equal(parameter, base[name])
    assert changed > 4 * data.config.decoder.layers + data.config.vision.layers


def test_minicpm_adapters_under_its_own_names(golden, tmp_path):
    data = golden("minicpm_v_4_5")
    key, key_delta = pair("llm.model.layers.1.self_attn.k_proj", 128, 256)
    attention, attention_delta = pair("vpm.encoder.layers.0.self_attn.v_proj", 72, 72, seed=1)
    model = load_model(data.checkpoint, data.config, adapter=write_adapter(tmp_path, key | attention))
    expected = data.model.decoder.layers[1].qkv.weight.clone()
    expected[256:384] += 2 * key_delta
    torch.testing.assert_close(model.decoder.layers[1].qkv.weight, expected)
    expected = data.model.tower.blocks[0].attention.qkv.weight.clone()
    expected[144:] += 2 * attention_delta
    torch.testing.assert_close(model.tower.blocks[0].attention.qkv.weight, expected)


def test_an_adapter_trained_under_older_module_names_merges_alike(golden, tmp_path):
    data = golden("qwen2_5_vl")
    models = []
    for number, prefix in enumerate(("model.layers.0", "model.language_model.layers.0")):
        tensors, _ = pair(f"{prefix}.mlp.up_proj", 88, 256)
        models.append(load_model(data.checkpoint, data.config, adapter=write_adapter(tmp_path / str(number), tensors)))
    first, second = (model.decoder.layers[0].gate_up.weight for model in models)
    assert torch.equal(first, second)
    assert torch.equal(first[:88], data.model.decoder.layers[0].gate_up.weight[:88])
    assert not torch.equal(first[88:], data.model.decoder.layers[0].gate_up.weight[88:])


def test_the_sum_is_rounded_once_in_half_precision(golden, tmp_path):
    data = golden("qwen3_vl")
    tensors, delta = pair("model.language_model.layers.0.self_attn.o_proj", 136, 256)
    model = load_model(data.checkpoint, data.config, dtype=torch.bfloat16, adapter=write_adapter(tmp_path, tensors))
    expected = data.model.decoder.layers[0].o.weight.bfloat16().float() + 2 * delta
    assert torch.equal(model.decoder.layers[0].o.weight, expected.bfloat16())


def test_fully_trained_modules_replace_their_weights(golden, tmp_path):
    data = golden("qwen2_vl")
    head = torch.randn(352, 256, generator=torch.Generator().manual_seed(5))
    model = load_model(data.checkpoint, data.config, adapter=write_adapter(tmp_path, {"lm_head.weight": head}))
    assert torch.equal(model.decoder.head, head)


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "LOHA"},
        {"peft_type": None},
        {"use_dora": True},
        {"fan_in_fan_out": True},
        {"lora_bias": True},
        {"init_lora_weights": "pissa_niter_4"},
    ],
)
def test_adapters_whose_merge_is_another_formula_are_refused(golden, tmp_path, change):
    data = golden("qwen2_5_vl")
    tensors, _ = pair("model.layers.0.mlp.up_proj", 88, 256)
    with pytest.raises(CheckpointError, match=f'"{next(iter(change))}"'):
        load_model(data.checkpoint, data.config, adapter=write_adapter(tmp_path, tensors, **change))


def test_tensors_that_fit_nothing_are_named_and_counted(golden, tmp_path):
    data = golden("qwen2_5_vl")
    good, _ = pair("model.layers.0.mlp.up_proj", 88, 256)
    beyond, _ = pair("model.layers.7.mlp.up_proj", 88, 256)
    with pytest.raises(CheckpointError, match=r"2 tensors that fit no .* base_model\.model\.model\.layers\.7\.mlp\.up_proj\.lora_A"):
        load_model(data.checkpoint, data.config, adapter=write_adapter(tmp_path, good | beyond))


def test_half_a_pair_is_named(golden, tmp_path):
    data = golden("qwen2_5_vl")
    tensors, _ = pair("model.layers.0.mlp.up_proj", 88, 256)
    tensors.popitem()
    with pytest.raises(CheckpointError, match="lora_A"):
        load_model(data.checkpoint, data.config, adapter=write_adapter(tmp_path, tensors))


def test_contradicting_shapes_are_named(golden, tmp_path):
    data = golden("qwen2_5_vl")
    tensors, _ = pair("model.layers.0.mlp.up_proj", 90, 256)
    with pytest.raises(CheckpointError, match=r"mlp\.up_proj has shapes \(90, 3\) @ \(3, 256\), but the weight has \(88, 256\)"):
        load_model(data.checkpoint, data.config, adapter=write_adapter(tmp_path, tensors))


def test_a_pickled_adapter_is_refused_unopened(golden, tmp_path):
    data = golden("qwen2_5_vl")
    write_adapter(tmp_path, pair("model.layers.0.mlp.up_proj", 88, 256)[0])
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"only pickled weights \(adapter_model\.bin\)"):
        load_model(data.checkpoint, data.config, adapter=tmp_path)


def test_a_directory_that_is_no_adapter_says_what_is_missing(golden, tmp_path):
    data = golden("qwen2_5_vl")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json .* is missing"):
        load_model(data.checkpoint, data.config, adapter=tmp_path)


def test_rank_stabilized_scale_is_alpha_over_the_root_of_the_rank(golden, tmp_path):
    data = golden("qwen2_5_vl")
    tensors, delta = pair("model.layers.0.mlp.down_proj", 256, 88)
    model = load_model(data.checkpoint, data.config, adapter=write_adapter(tmp_path, tensors, use_rslora=True))
    expected = data.model.decoder.layers[0].down.weight + 6 / math.sqrt(3) * delta
    torch.testing.assert_close(model.decoder.layers[0].down.weight, expected)
