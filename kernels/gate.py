"""The speak/no-speak gate: from the last hidden row of each stream to one decision and one probability.

    logits = RMSNorm(row) · head^T                              (float32)
    greedy:   speak = argmax(logits) is not the silence token;  probability = 1 - softmax(logits)[silence]
    softmax:  probability = 1 - exp(logits[silence] - logsumexp(logits));              speak = probability >= threshold
    pair:     probability = sigmoid(logits[marker] - logits[silence]);                 speak = probability >= threshold
    A stream with resting > 0 turns of enforced silence left does not speak, whatever its probability.

Shapes: rows (B, h); weight (h,); head (V, h); resting (B,) int32, or None when no stream rests; speak (B,) bool; probability (B,) float32.
Floor: pair reads two rows of the head; softmax and greedy read the head once, V·h·size bytes, whatever B is up to about 180.
C++ (csrc/gate.h) and CUDA (csrc/gate.cuh) never store the logits: each run of the vocabulary leaves its log-sum-exp and its argmax.
"""

import torch
import torch.nn.functional as F

from . import native
from .norm import reference_norm

MODES = ("greedy", "softmax", "pair")


def project(rows, head):
    """rows (B, h) · head (V, h)^T in float32: (B, V). On CUDA the product accumulates and stays in float32."""
    if rows.is_cuda and rows.dtype != torch.float32:
        return torch.mm(rows, head.t(), out_dtype=torch.float32)
    return F.linear(rows, head).float()


def decision_logits(rows, weight, eps, head):
    """Final norm and full next-token logits of rows (B, h): (B, V) float32."""
    return project(reference_norm(rows, weight, eps)[0], head)


def reference_gate(rows, weight, eps, head, silence, marker, mode, threshold, resting=None):
    """Plain twin of `gate`."""
    if mode == "pair":
        pair = decision_logits(rows, weight, eps, head[[silence, marker]])
        probability = torch.sigmoid(pair[:, 1] - pair[:, 0])
    else:
        logits = decision_logits(rows, weight, eps, head)
        probability = -torch.expm1(logits[:, silence] - torch.logsumexp(logits, -1))
    speak = logits.argmax(-1) != silence if mode == "greedy" else probability >= threshold
    return speak if resting is None else speak & (resting <= 0), probability


def gate(rows, weight, eps, head, silence, marker=None, mode="softmax", threshold=0.5, resting=None):
    """Decide for B streams at once: (speak (B,) bool, probability of speaking (B,) float32); NaN rows give a NaN probability.

    resting (B,) int32: turns of enforced silence left for each stream, on the device of the rows.
    """
    assert mode in MODES, f"mode {mode!r} is none of {MODES}"
    assert mode != "pair" or marker is not None, "pair needs the marker's row"
    assert rows.shape[-1] == head.shape[-1] == weight.shape[0], "rows, norm and head share one width"
    assert resting is None or (resting.shape == rows.shape[:1] and resting.dtype == torch.int32), "resting is one int32 a row"
    if native.compiled(rows) and fits(rows.device.type, rows.shape[-1]):
        marker = silence if marker is None else marker
        return torch.ops.evostreaming.gate(rows.contiguous(), weight, eps, head, silence, marker, MODES.index(mode), threshold, resting)
    return reference_gate(rows, weight, eps, head, silence, marker, mode, threshold, resting)


def fits(device_type, width):
    """Whether the native op takes rows of that width. On CUDA a warp reads 32 numbers at a time and a block holds a row; all published
    sizes fit, a small checkpoint with rows of 136 goes to the twin."""
    return device_type == "cpu" or (width % 32 == 0 and width <= 16384)


@native.fake("gate")
def fake_gate(rows, weight, eps, head, silence, marker, mode, threshold, resting=None):
    return rows.new_empty(rows.shape[0], dtype=torch.bool), rows.new_empty(rows.shape[0], dtype=torch.float32)


def implementation(device_type):
    """What computes this op on a device of that type."""
    return native.language(device_type)
