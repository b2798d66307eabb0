"""The bench of self-evolution: its slices go through the product's own stages on random weights, and its FLOP are counted right."""

import json

import pytest
import torch

pytest.importorskip("peft", reason="the optional dependency of stage 5 is not installed")

from evostreaming.benchmarks import evolve_speed, random_checkpoint
from evostreaming.benchmarks.evolve_speed import KEPT, WANTED, rollout, seen_pairs, tuning, work_of
from evostreaming.benchmarks.random_checkpoint import read_config
from evostreaming.engine.config import ModelConfig
from evostreaming.evolve.sequences import visibility

SMALL = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A published size with two thin layers instead of its own, and small videos."""
    config, preprocessor = read_config("qwen2.5-vl-7b")
    thin = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "fullatt_block_indexes": [0], "out_hidden_size": 64}
    config |= SMALL | {"vision_config": config["vision_config"] | thin, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}}
    file = random_checkpoint.MODELS["qwen2.5-vl-7b"] + ".json"
    (tmp_path / file).write_text(json.dumps(config))
    (tmp_path / f"preprocessor_{file}").write_text(json.dumps(preprocessor))
    monkeypatch.setattr(random_checkpoint, "CONFIGS", tmp_path)
    monkeypatch.setattr(evolve_speed, "HEIGHT", 96)
    monkeypatch.setattr(evolve_speed.tune, "load_tunable", evolve_speed.tune.load_tunable)  # the bench puts its own in its place
    return "qwen2.5-vl-7b"


def test_a_forward_is_two_flop_a_weight_and_a_token_and_attention_is_causal():
    decoder = ModelConfig.from_json(*read_config("qwen2.5-vl-7b")).decoder
    work = work_of(decoder, [1000, 3000], 50)
    matrices = 28 * (3584 * 3584 * 2 + 2 * 3584 * 512 + 3 * 3584 * 18944)
    attention = 28 * 28 * 128 * 4 * (1000 * 1001 / 2 + 3000 * 3001 / 2)
    assert (work.weights, work.attention) == pytest.approx((2 * matrices * 4000, attention))
    assert work.head == 2 * 152064 * 3584 * 50
    assert work.model == 2 * work.weights + 3 * attention + 2 * work.head and work.done == work.model + work.weights + attention


def test_rolling_out_random_weights_takes_every_turn_and_projects_its_time(small):
    told = []
    found = rollout(None, small, 5, (4, 6), "cpu", told.append)
    assert found["videos"] == 5 and found["turns"] == 4 + 6 + 4 + 6 + 4
    assert found["answers"] > 5 and found["waited_for_video"] >= 0
    spent = (found["seconds"] + found["waited_for_video"]) / 60
    assert found["projected_minutes"] == pytest.approx(spent * WANTED / (5 * KEPT))
    assert "minutes on one GPU" in told[-1]


def test_tuning_random_weights_counts_the_tokens_of_the_batches_after_the_first(small):
    told = []
    found = tuning(None, small, 8, (3, 5), "cpu", told.append, room=0)
    assert found["trajectories"] == 8 and sum(line.startswith("batch") for line in told) == 2
    assert 8 * 3 * 128 < found["tokens"] < 8 * 5 * 200  # those of one batch
    assert 0 < found["mfu"] < found["with_checkpointing"] and found["projected_minutes"] > 0


def test_tuning_counts_nothing_twice_that_was_kept_and_names_the_kernels_of_one_more_batch(small):
    told = []
    found = tuning(None, small, 8, (3, 5), "cpu", told.append, history="replies", profile=True)
    assert sum(line.startswith("batch") for line in told) == 3
    assert 8 * 3 * 128 < found["tokens"] < 8 * 5 * 200
    assert found["recomputed"] == 0 and 0 < found["mfu"] == found["with_checkpointing"]
    slowest = told.index(next(line for line in told if line.endswith("s in kernels")))
    assert any("aten::mm" in line or "aten::addmm" in line for line in told[slowest + 1 : slowest + 26])


def test_pairs_of_a_sequence_with_branches_are_those_its_mask_shows():
    branch = torch.tensor([0, 0, 1, 1, 0, 2, 2, 2, 0])
    places = torch.arange(len(branch))
    mask = visibility(branch, torch.zeros_like(branch))(None, None, places[:, None], places[None])
    assert seen_pairs(branch) == mask.sum()
    assert seen_pairs(torch.zeros(7, dtype=torch.long)) == 7 * 8 / 2
