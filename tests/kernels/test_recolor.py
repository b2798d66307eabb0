"""Frames copied out of a decoder's memory, in the colors that they should have had."""

import pytest
import torch

from evostreaming.kernels import recolor as op

MATRIX = [[1.08637, -0.31415, 0.22781], [-0.05123, 0.90217, 0.14909], [0.25337, 0.00171, 0.74519]]  # no sum of it is near a half
OFFSET = (0.871, -0.5303, 1.0817)


def truth(frames, matrix, offset=(0.0, 0.0, 0.0)):
    shades = frames.double() - torch.tensor(offset, dtype=torch.float64, device=frames.device) * ((frames > 0) & (frames < 255))
    shades = shades @ torch.tensor(matrix, dtype=torch.float64, device=frames.device).T
    return (shades + 0.5).floor().clamp(0, 255)


def noise(count, height, width, device="cpu"):
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)


@pytest.mark.parametrize("at_once", [1, 16 << 20])
@pytest.mark.parametrize("offset", [(0.0, 0.0, 0.0), OFFSET])
def test_the_twin_equals_the_formula(monkeypatch, at_once, offset):
    monkeypatch.setattr(op, "AT_ONCE", at_once)
    frames = noise(3, 20, 30)
    frames[1] = 0
    out, peak = op.reference_recolor(frames, MATRIX, offset)
    wanted = truth(frames, MATRIX, offset)
    assert (out.double() - wanted).abs().max() <= 1 and (out != wanted).float().mean() < 1e-3
    assert peak[1] == 0 and (peak[[0, 2]] > 250).all()


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 20, 30), (2, 33, 32), (8, 7, 300)])
@pytest.mark.parametrize("offset", [(0.0, 0.0, 0.0), OFFSET])
def test_kernel_equals_the_formula(target, size, offset):
    frames = noise(*size, device=target.device)
    frames[-1] = 0
    frames[-1, -1, -1, 2] = 3  # the very last value
    out, peak = op.launch_recolor(frames, MATRIX, offset)
    wanted = truth(frames, MATRIX, offset)
    assert (out.double() - wanted).abs().max() <= 1 and (out != wanted).float().mean() < 1e-3
    assert peak.tolist() == frames.flatten(1).amax(1).tolist() and peak[-1] == 3


def test_without_a_matrix_frames_are_copied(target):
    frames = noise(3, 33, 40, target.device)
    frames[1] = 0
    out, peak = op.launch_recolor(frames)
    assert torch.equal(out, frames) and out.data_ptr() != frames.data_ptr()
    assert [value == 0 for value in peak.tolist()] == [False, True, False]


def test_what_the_decoder_cut_off_stays_black_and_white(target):
    frames = torch.tensor([[[[0, 0, 0], [255, 255, 255], [0, 255, 7]]]], dtype=torch.uint8, device=target.device)
    out, _ = op.launch_recolor(frames, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], (2.0, -2.0, 2.0))
    assert out.tolist() == [[[[0, 0, 0], [255, 255, 255], [0, 255, 5]]]]


def test_frames_that_are_no_rgb_are_refused():
    for wrong in (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(1, 4, 4, 3), noise(1, 4, 4).transpose(1, 2)[:, :, ::2]):
        with pytest.raises(AssertionError, match="RGB, row by row"):
            op.recolor(wrong)


@pytest.mark.parametrize("recolored", [False, True])
def test_compiles_for_hopper(compile_for_hopper, recolored):
    signature = dict(frames="*u8", out="*u8", peak="*i32", pixels="i32") | {a + b: "fp32" for a in "rgb" for b in "rgb"}
    signature |= {f"off_{channel}": "fp32" for channel in "rgb"}
    build = compile_for_hopper(op._recolor_kernel, signature, dict(RECOLOR=recolored, BLOCK=op.BLOCK), 4)
    assert build.stack == 0, "registers spill"
