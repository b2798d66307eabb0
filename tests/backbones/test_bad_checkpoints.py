"""Checkpoints that cannot be used: each is refused with a message that names what is wrong and what to do."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from evostreaming.engine.checkpoint import load_model
from evostreaming.engine.config import ModelConfig
from evostreaming.engine.errors import CheckpointError
from evostreaming.engine.tensor_files import TensorFiles


@pytest.fixture
def copy(golden, tmp_path):
    """A writable copy of the Qwen2.5-VL golden checkpoint."""
    directory = tmp_path / "checkpoint"
    shutil.copytree(golden("qwen2_5_vl").checkpoint, directory, copy_function=shutil.copyfile)
    directory.chmod(0o755)
    return directory


def edit_json(file, **changes):
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def edit_weights(directory, change):
    files = TensorFiles(directory)
    tensors = {name: files.tensor(name).clone() for name in files.names}
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def load(directory):
    return load_model(directory, ModelConfig.from_directory(directory))


def test_an_unknown_architecture_names_the_five(copy):
    edit_json(copy / "config.json", architectures=["LlavaForConditionalGeneration"])
    with pytest.raises(CheckpointError) as refusal:
        load(copy)
    for name in ("LlavaForConditionalGeneration", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl3_5", "minicpm_v_4_5"):
        assert name in str(refusal.value)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer.json"])
def test_a_missing_file_says_which_and_where_it_belongs(copy, name):
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=rf"^{name} .*belongs in {copy}"):
        load(copy)


def test_a_directory_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match="is not a directory"):
        ModelConfig.from_directory(tmp_path / "nothing")


@pytest.mark.parametrize("content, reason", [("{", "not valid JSON"), ("[]", "expected a JSON object"), ("\x00", "not valid JSON")])
def test_malformed_json_is_named(copy, content, reason):
    (copy / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=f"config.json.*{reason}"):
        load(copy)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_key_value_heads", "vocab_size", "rms_norm_eps", "vision_config"])
def test_a_missing_size_is_named_not_defaulted(copy, key):
    edit_json(copy / "config.json", **{key: None})
    with pytest.raises(CheckpointError, match=f'no "{key}"'):
        load(copy)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 'rope type "yarn"'),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [8, 8, 8]}}, "half the head dimension, 64"),
        ({"rope_scaling": {"type": "mrope"}}, 'no "mrope_section"'),
    ],
)
def test_a_decoder_that_the_engine_does_not_compute_is_refused(copy, change, reason):
    edit_json(copy / "config.json", **change)
    with pytest.raises(CheckpointError, match=reason):
        load(copy)


def test_other_models_under_the_name_of_minicpm_are_refused(golden):
    data = golden("minicpm_v_4_5")
    config, preprocessor = (json.loads((data.checkpoint / f"{name}.json").read_text()) for name in ("config", "preprocessor_config"))
    with pytest.raises(CheckpointError, match=r'"version": 2\.6'):
        ModelConfig.from_json(config | {"version": 2.6}, preprocessor)


def test_missing_tensors_are_named_and_counted(copy):
    def drop_a_layer(tensors):
        for name in [name for name in tensors if ".layers.2." in name]:
            del tensors[name]

    edit_weights(copy, drop_a_layer)
    with pytest.raises(CheckpointError, match=r"lacks 12 tensors of qwen2_5_vl: model\.layers\.2\.\S+, .*\.\.\."):
        load(copy)


def test_a_contradicting_shape_names_the_tensor_and_both_shapes(copy):
    edit_json(copy / "config.json", intermediate_size=96)
    with pytest.raises(CheckpointError, match=r"mlp\.gate_proj\.weight has shape \[88, 256\], but config\.json asks for \[96, 256\]"):
        load(copy)


def test_a_transposed_tensor_of_the_right_number_of_elements_is_refused(copy):
    edit_weights(copy, lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"].T.contiguous()}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight has shape \[256, 368\], but config\.json asks for \[368, 256\]"):
        load(copy)


def test_more_layers_than_the_config_states_are_refused(copy):
    edit_json(copy / "config.json", num_hidden_layers=2)
    with pytest.raises(CheckpointError, match=r"holds model\.layers\.2\.\S+, which config\.json has no place for"):
        load(copy)


def test_quantized_tensors_are_refused(copy):
    edit_weights(copy, lambda tensors: tensors.update({"lm_head.weight": tensors["lm_head.weight"].to(torch.float8_e4m3fn)}))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is stored as F8_E4M3"):
        load(copy)


@pytest.mark.parametrize("keep", [0, 7, 1000, 500_000])
def test_a_truncated_file_is_named(copy, keep):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read .*truncated or corrupt"):
        load(copy)


def test_a_corrupt_header_is_named(copy):
    file = copy / "model.safetensors"
    file.write_bytes(b"\xff" * 64 + file.read_bytes()[64:])
    with pytest.raises(CheckpointError, match="truncated or corrupt"):
        load(copy)


def test_a_missing_shard_is_named(golden, tmp_path):
    directory = tmp_path / "checkpoint"
    shutil.copytree(golden("qwen3_vl").checkpoint, directory, copy_function=shutil.copyfile)
    directory.chmod(0o755)
    (directory / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lists model-00002-of-00002\.safetensors \(1 missing\)"):
        load(directory)
    (directory / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a safetensors index"):
        load(directory)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_unopened(copy, name):
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(CheckpointError, match=rf"only pickled weights \({name}\).*convert them to safetensors"):
        load(copy)


def test_a_directory_without_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        load(copy)
