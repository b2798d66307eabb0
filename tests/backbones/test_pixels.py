"""Preprocessing: resize rules, the uint8 resize, normalization and patch order, against the official processors' values."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import interpolate

from evostreaming.engine.errors import FrameError
from evostreaming.engine.pixels import frame_size, grid
from evostreaming.kernels.preprocess import preprocess, reference_preprocess, reference_resize

sides = st.integers(1, 400)


@pytest.fixture
def rows_of(make_engine):
    """rows_of(data, frame) -> what the engine makes of a frame: (patch rows, size)."""
    engines = {}

    def rows(data, frame):
        if data.family not in engines:
            engines[data.family] = make_engine(data)
        encoder = engines[data.family].frames
        size = encoder.size_of(frame)
        return encoder.patches(frame, size), size

    return rows


def assert_within_one_grey_level(data, got, expected):
    std = torch.tensor(data.config.pixels.std).repeat_interleave(data.config.pixels.patch**2)
    levels = (got - expected).abs() * 255 * std
    assert levels.max() <= 1.01
    assert (levels > 0.5).float().mean() <= 0.01


def test_trace_frames_become_the_official_pixel_values(data, rows_of):
    for turn in range(6):
        rows, _ = rows_of(data, data.tensors["frames"][turn])
        assert_within_one_grey_level(data, rows, data.rows(turn)[0])


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_frame_of_legal_size_is_not_resampled(golden, family, rows_of):
    data = golden(family)
    rows, size = rows_of(data, data.tensors["frames"][0])
    assert size == tuple(data.trace["frame_size"])
    assert (rows - data.rows(0)[0]).abs().max() <= 1e-5


def test_frames_that_need_a_resize_match_the_official_processor(data, rows_of):
    cases = json.loads((data.root / "preprocess.json").read_text())["cases"]
    stored = load_file(data.root / "preprocess.safetensors")
    for case in cases:
        rows, size = rows_of(data, stored[f"case{case['case']}.frame"])
        assert list(size) == case["resized_to"]
        values = stored[f"case{case['case']}.{case['backends'][0]}.pixel_values"]
        expected = data.patch_rows(values, grid(data.config.pixels, *size))
        assert_within_one_grey_level(data, rows, expected)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(3, 90), width=st.integers(3, 90), h=st.integers(1, 70), w=st.integers(1, 70), seed=st.integers(0, 9))
def test_the_integer_resize_is_pytorchs_own_bit_for_bit(height, width, h, w, seed):
    frame = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    expected = interpolate(frame.permute(2, 0, 1)[None], (h, w), mode="bicubic", antialias=True)[0].permute(1, 2, 0)
    assert torch.equal(reference_resize(frame, (h, w)), expected)


@pytest.mark.parametrize("size, target", [((90, 160), (56, 84)), ((60, 40), (112, 84)), ((97, 50), (42, 70))])
def test_the_wide_integer_resize_is_pillows_bit_for_bit(size, target):
    frame = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    image = Image.fromarray(frame.numpy())
    # One axis at a time: Pillow is free to choose the order of the passes.
    expected = image.resize((target[1], size[0]), Image.Resampling.BICUBIC).resize(target[::-1], Image.Resampling.BICUBIC)
    assert np.array_equal(reference_resize(frame, target, weight_bits=23).numpy(), np.asarray(expected))


def test_the_public_op_equals_its_twin_and_casts_last(data):
    pixels = data.config.pixels
    frame = torch.randint(0, 256, (61, 47, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    size = frame_size(pixels, 61, 47)
    arguments = (frame, size, pixels.mean, pixels.std, pixels.patch, pixels.merge)
    assert torch.equal(preprocess(*arguments), reference_preprocess(*arguments))
    assert torch.equal(preprocess(*arguments, dtype=torch.bfloat16), reference_preprocess(*arguments).bfloat16())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cpu_and_gpu_give_the_same_bytes():
    frame = torch.randint(0, 256, (357, 643, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    assert torch.equal(reference_resize(frame.cuda(), (252, 448)).cpu(), reference_resize(frame, (252, 448)))


def test_a_frame_that_is_not_uint8_rgb_is_not_accepted():
    for frame in (torch.zeros(8, 8, 3), torch.zeros(8, 8, 4, dtype=torch.uint8), torch.zeros(8, 8, dtype=torch.uint8)):
        with pytest.raises(AssertionError):
            preprocess(frame, (28, 28), (0.5,) * 3, (0.5,) * 3, 14, 2)


@settings(max_examples=200, deadline=None)
@given(height=sides, width=sides)
def test_smart_sizes_are_legal_and_stable(golden, height, width):
    pixels = golden("qwen2_5_vl").config.pixels
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(FrameError, match="elongated"):
            frame_size(pixels, height, width)
        return
    h, w = frame_size(pixels, height, width)
    assert h % pixels.unit == 0 and w % pixels.unit == 0
    assert h * w >= pixels.min_pixels
    if max(h, w) <= 200 * min(h, w):
        assert frame_size(pixels, h, w) == (h, w)


@settings(max_examples=200, deadline=None)
@given(height=sides, width=sides, tokens=st.integers(1, 300))
def test_a_token_budget_is_never_exceeded(golden, height, width, tokens):
    if max(height, width) > 200 * min(height, width):
        return
    for family in ("qwen2_vl", "qwen3_vl", "internvl3_5"):
        pixels = golden(family).config.pixels
        h, w = frame_size(pixels, height, width, tokens)
        assert h > 0 and w > 0 and h % pixels.unit == 0 and w % pixels.unit == 0
        assert h * w <= tokens * pixels.unit**2


@pytest.mark.parametrize("size, expected", [((448, 448), (448, 448)), ((360, 640), (364, 644)), ((720, 1280), (728, 1288))])
def test_published_sizes_of_qwen2_5(golden, size, expected):
    assert frame_size(golden("qwen2_5_vl").config.pixels, *size) == expected


def test_sizes_round_half_to_even_like_the_published_rule(golden):
    pixels = golden("qwen3_vl").config.pixels
    assert frame_size(pixels, 720, 1280) == (704, 1280)  # 720 / 32 = 22.5 -> 22


def test_sizes_that_no_family_can_take_are_frame_errors(golden):
    with pytest.raises(FrameError, match="empty"):
        frame_size(golden("qwen2_vl").config.pixels, 0, 20)
    with pytest.raises(FrameError, match="needs at least 64"):
        frame_size(golden("minicpm_v_4_5").config.pixels, 100, 100, tokens=32)
