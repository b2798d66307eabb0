"""The floors are those of the reference table, computed by hand from the published sizes."""

import pytest

from evostreaming.benchmarks.floors import Ceilings, Work, decoder_weights, floors, vision_parts, vision_weights
from evostreaming.benchmarks.random_checkpoint import MODELS, read_config
from evostreaming.engine.config import ModelConfig

H200 = Ceilings(4.3e12, 790e12)
# (weights of the decoder, of the tower, then ViT / matrices / attention in ms at 8k and B=1, attention at 32k) with this many visual tokens
TABLE = {
    "qwen2-vl-7b": (6.525e9, 0.675e9, 256, 1.88, 4.23, 1.08, 4.28),
    "qwen2.5-vl-7b": (6.525e9, 0.676e9, 256, 1.70, 4.23, 1.08, 4.28),
    "qwen3-vl-8b": (6.946e9, 0.573e9, 196, 1.00, 3.45, 1.21, 4.81),
    "internvl3.5-8b": (6.946e9, 0.336e9, 256, 0.94, 4.50, 1.59, 6.29),
    "minicpm-v-4.5": (6.946e9, 0.502e9, 64, 1.34, 3.23, 0.39, 1.57),
}


@pytest.mark.parametrize("name", MODELS)
def test_floors_of_the_five_families_are_those_of_the_table(name):
    config = ModelConfig.from_json(*read_config(name))
    decoder, tower, tokens, vision, matrices, near, far = TABLE[name]
    assert decoder_weights(config.decoder) == pytest.approx(decoder, rel=1e-3)
    assert sum(vision_weights(config.vision)) == pytest.approx(tower, rel=0.02)
    for context, attention in ((8192, near), (32768, far)):
        found = floors(config, Work(1, context, tokens, (448, 448)), H200)
        assert found["vision"]["floor_ms"] == pytest.approx(vision, rel=0.03)
        assert found["prefill"]["floor_ms"] == pytest.approx(matrices + attention, abs=0.03)


def test_a_decoded_token_costs_its_weights_the_head_and_the_cache():
    config = ModelConfig.from_json(*read_config("qwen2.5-vl-7b"))
    found = floors(config, Work(1, 8192, 256, (448, 448)), H200)
    assert found["reply"]["floor_ms"] == pytest.approx(3.40, abs=0.02)
    assert found["gate"]["floor_ms"] == pytest.approx(0.253, abs=0.002)


def test_batching_multiplies_work_but_reads_weights_once():
    config = ModelConfig.from_json(*read_config("qwen2.5-vl-7b"))
    one, many = (floors(config, Work(streams, 8192, 256, (448, 448)), H200) for streams in (1, 32))
    assert many["prefill"]["flops"] == 32 * one["prefill"]["flops"]
    assert many["prefill"]["bytes"] < 3 * one["prefill"]["bytes"]
    assert many["reply"]["floor_ms"] == pytest.approx(6.79, abs=0.05)


def test_eight_bit_weights_halve_what_is_read_and_double_the_rate_of_mlps_but_not_of_attention():
    config = ModelConfig.from_json(*read_config("qwen2.5-vl-7b"))
    wide, narrow = (floors(config, Work(1, 8192, 256, (448, 448), 2, weight), H200)["prefill"]["floor_ms"] for weight in (2, 1))
    assert wide - narrow == pytest.approx(3.70 / 2, abs=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_eight_bit_weights_halve_the_products_of_a_tower_but_for_those_behind_attention(name):
    vision = ModelConfig.from_json(*read_config(name)).vision
    parts = [vision_parts(vision, Work(1, 8192, 256, (448, 448), 2, weight)) for weight in (2, 1)]
    layer = vision.hidden * (3 * vision.hidden + (3 if vision.tower == "qwen2_5_vl" else 2) * vision.intermediate)
    assert parts[0]["matrices"].bytes == 2 * parts[1]["matrices"].bytes == 2 * vision.layers * layer
    assert parts[0]["matrices"].floor(H200) == pytest.approx(2 * parts[1]["matrices"].floor(H200, quantized=True))
    assert parts[0]["rest"] == parts[1]["rest"]
