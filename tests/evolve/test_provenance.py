"""An adapter says where it comes from, and travels without anything of the machine it was made on."""

import json
from types import SimpleNamespace

import pytest

from evostreaming.engine.errors import CheckpointError
from evostreaming.engine.locate import locate
from evostreaming.evolve.provenance import command, publish, write_provenance
from evostreaming.evolve.settings import Settings


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    (folder / "resume").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "base_model_name_or_path": str(locate("tiny"))}))
    (folder / "streaming.json").write_text("{}")
    (tmp_path / "trajectories.jsonl").write_text("{}\n{}\n")
    return folder


def test_a_published_adapter_names_its_base_and_what_it_was_made_with(adapter, tmp_path):
    with pytest.raises(CheckpointError, match="provenance.json"):
        publish(adapter, tmp_path / "early")
    write_provenance(adapter, "tiny", locate("tiny"), Settings(seed=3), 2, SimpleNamespace(sha="abc"), tmp_path / "trajectories.jsonl")
    publish(adapter, tmp_path / "out")
    held = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(held) == {"adapter_model.safetensors", "adapter_config.json", "streaming.json", "provenance.json"}
    assert json.loads(held["adapter_config.json"]) == {"r": 8, "base_model_name_or_path": "tiny"}
    about = json.loads(held["provenance.json"])
    assert about["model"] == "tiny" and about["round"] == 2 and about["settings"]["seed"] == 3 and about["prompts_sha"] == "abc"
    assert about["trajectories"] == 2 and about["settings"]["tuning"]["rank"] == 8 and about["versions"]["torch"]
    (adapter / "adapter_model.safetensors").write_bytes(b"others")
    write_provenance(adapter, "tiny", locate("tiny"), Settings(seed=3), 2, SimpleNamespace(sha="abc"), tmp_path / "trajectories.jsonl")
    assert json.loads((adapter / "provenance.json").read_text())["adapter_sha256"] != about["adapter_sha256"]


def test_the_command_is_what_was_typed():
    assert command(["/usr/bin/evostreaming", "evolve", "--out", "my run"]) == "evostreaming evolve --out 'my run'"
    assert command(["/lib/evostreaming/__main__.py", "evolve"]) == "python -m evostreaming evolve"
