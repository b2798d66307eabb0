"""Checkpoints as they are published, re-saved and stored: every layout, dtype and tie must give the same parameters."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from evostreaming.engine.checkpoint import allocate, load_model, named_parameters, random_model
from evostreaming.engine.config import ModelConfig
from evostreaming.engine.errors import CheckpointError
from evostreaming.engine.tensor_files import TensorFiles
from evostreaming.engine.vision.tower import fold_pair

# Parameters of the published checkpoints, from their indexes and module trees.
PUBLISHED = {
    "qwen2_vl_7b": ("qwen2_vl_7b", 8_291_375_616),
    "qwen2_5_vl_7b": ("qwen2_5_vl_7b", 8_292_166_656),
    "qwen3_vl_8b": ("qwen3_vl_8b", 8_767_123_696),
    "internvl3_5_8b": ("internvl3_5_8b", 8_528_318_464),
    "internvl3_5_8b_hf_asis": ("internvl3_5_8b", 8_528_318_464),
    "internvl3_5_8b_chat_remote": ("internvl3_5_8b", 8_528_318_464),
    "minicpm_v_4_5": ("minicpm_v_4_5", 8_695_895_280),
}


def stored(directory):
    files = TensorFiles(directory)
    return {name: files.tensor(name).clone() for name in files.names}


def copy_without_weights(data, target):
    """The golden directory without its weight files, at `target`."""
    shutil.copytree(data.checkpoint, target, ignore=shutil.ignore_patterns("*.safetensors*"), copy_function=shutil.copyfile)
    target.chmod(0o755)
    return target


def load(directory, **options):
    return load_model(directory, ModelConfig.from_directory(directory), **options)


def assert_equal_parameters(model, expected):
    got, wanted = dict(named_parameters(model)), dict(named_parameters(expected))
    assert got.keys() == wanted.keys()
    for name, parameter in got.items():
        assert torch.equal(parameter, wanted[name]), name


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_have_the_published_number_of_parameters(shared, name):
    preprocessor, count = PUBLISHED[name]
    config = json.loads((shared / "configs" / f"{name}.json").read_text())
    config = ModelConfig.from_json(config, json.loads((shared / "configs" / f"preprocessor_{preprocessor}.json").read_text()))
    model = allocate(config, "meta", torch.bfloat16)
    # The folded patch embedding is the one parameter that no checkpoint holds.
    parameters = {name: parameter.numel() for name, parameter in named_parameters(model) if not name.endswith("patch_embed.single")}
    assert sum(parameters.values()) == count


def test_fused_parameters_hold_the_stored_tensors(data):
    source = stored(data.checkpoint)
    layer = data.model.decoder.layers[1]
    prefix = next(name for name in source if name.endswith("layers.1.self_attn.q_proj.weight")).removesuffix("self_attn.q_proj.weight")
    assert torch.equal(layer.qkv.weight, torch.cat([source[f"{prefix}self_attn.{x}_proj.weight"] for x in "qkv"]))
    assert torch.equal(layer.gate_up.weight, torch.cat([source[f"{prefix}mlp.{x}_proj.weight"] for x in ("gate", "up")]))
    assert torch.equal(layer.post_norm.weight, source[f"{prefix}post_attention_layernorm.weight"])


def test_every_stored_tensor_is_used(data):
    from evostreaming.engine.checkpoint import placements
    from evostreaming.engine.weight_names import find_layout

    names = set(TensorFiles(data.checkpoint).names)
    assert set(placements(data.model, find_layout(data.config, names))) == names


def test_both_published_layouts_of_internvl_give_the_same_model(golden):
    data = golden("internvl3_5")
    chat = data.root / "checkpoint_chat"
    assert ModelConfig.from_directory(chat) == data.config
    assert_equal_parameters(load(chat), data.model)


def test_one_file_and_shards_give_the_same_model(data, tmp_path):
    directory = copy_without_weights(data, tmp_path / "copy")
    tensors = stored(data.checkpoint)
    names = sorted(tensors)
    if (data.checkpoint / "model.safetensors").is_file():
        shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for file, part in shards.items():
            save_file({name: tensors[name] for name in part}, directory / file)
        index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        save_file(tensors, directory / "model.safetensors")
    assert_equal_parameters(load(directory), data.model)


@pytest.mark.parametrize("file_type", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("load_type", [torch.bfloat16, torch.float32])
def test_a_file_in_half_precision_is_rounded_once(data, tmp_path, file_type, load_type):
    directory = copy_without_weights(data, tmp_path / "copy")
    tensors = {name: tensor.to(file_type) for name, tensor in stored(data.checkpoint).items()}
    save_file(tensors, directory / "model.safetensors")
    for name, parameter in named_parameters(load(directory, dtype=load_type)):
        assert parameter.dtype == load_type
        if not name.endswith("patch_embed.single"):
            expected = dict(named_parameters(data.model))[name].to(file_type).to(load_type)
            assert torch.equal(parameter, expected), name


def test_two_temporal_slices_are_summed_before_rounding(golden):
    data = golden("qwen2_5_vl")
    half = load(data.checkpoint, dtype=torch.bfloat16).tower.patch_embed
    whole = data.model.tower.patch_embed
    assert torch.equal(whole.single, fold_pair(whole.pair, 14))
    assert torch.equal(half.single, fold_pair(whole.pair, 14).bfloat16())


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl3_5"])
def test_a_checkpoint_saved_by_transformers_5_loads(golden, tmp_path, family):
    import transformers

    data = golden(family)
    architecture = json.loads((data.checkpoint / "config.json").read_text())["architectures"][0]
    reference = getattr(transformers, architecture).from_pretrained(data.checkpoint, dtype=torch.float32)
    directory = copy_without_weights(data, tmp_path / "copy")
    reference.save_pretrained(directory)
    assert "rope_parameters" in (directory / "config.json").read_text()
    assert ModelConfig.from_directory(directory) == data.config
    assert_equal_parameters(load(directory), data.model)
    # The library's own module names, as a plain state_dict has them.
    save_file({name: tensor.clone() for name, tensor in reference.state_dict().items()}, directory / "model.safetensors")
    assert_equal_parameters(load(directory), data.model)


def test_an_image_processor_inside_processor_config_counts(data, tmp_path):
    directory = copy_without_weights(data, tmp_path / "copy")
    inner = json.loads((directory / "preprocessor_config.json").read_text())
    (directory / "preprocessor_config.json").unlink()
    (directory / "processor_config.json").write_text(json.dumps({"image_processor": inner}))
    save_file(stored(data.checkpoint), directory / "model.safetensors")
    assert ModelConfig.from_directory(directory) == data.config


def with_tie(data, target, tie, head):
    """A copy whose config states `tie` (None: says nothing) and whose files hold a head or not."""
    directory = copy_without_weights(data, target)
    config = json.loads((directory / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (directory / "config.json").write_text(json.dumps(config if tie is None else config | {"tie_word_embeddings": tie}))
    save_file({k: v for k, v in stored(data.checkpoint).items() if head or "lm_head" not in k}, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("tie", [None, True, False])
def test_a_stored_head_is_never_overwritten_by_a_stated_tie(data, tmp_path, tie):
    model = load(with_tie(data, tmp_path / "copy", tie, head=True))
    assert not model.config.decoder.tied
    assert torch.equal(model.decoder.head, data.model.decoder.head)
    assert not torch.equal(model.decoder.head, model.decoder.embed.weight)


@pytest.mark.parametrize("tie", [None, True])
def test_without_a_stored_head_the_embedding_is_the_head(data, tmp_path, tie):
    model = load(with_tie(data, tmp_path / "copy", tie, head=False))
    assert model.config.decoder == replace(data.config.decoder, tied=True)
    assert model.decoder.head is model.decoder.embed.weight


def test_a_head_that_is_neither_stored_nor_tied_is_missing(data, tmp_path):
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors .*lm_head\.weight"):
        load(with_tie(data, tmp_path / "copy", False, head=False))


def test_random_models_are_finite_repeatable_and_folded(data):
    first, second = (random_model(data.config, seed=3) for _ in range(2))
    assert_equal_parameters(first, second)
    rows, grid = data.rows(0)
    tokens = first.tower(rows, [grid]).tokens
    assert torch.isfinite(tokens).all() and tokens.std() > 0.01
    if hasattr(first.tower.patch_embed, "pair"):
        assert torch.equal(first.tower.patch_embed.single, fold_pair(first.tower.patch_embed.pair, data.config.vision.patch))


def test_a_loaded_model_asks_for_no_gradients(data):
    assert not any(parameter.requires_grad for _, parameter in named_parameters(data.model))
