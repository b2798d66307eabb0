"""Frames as the model takes them: painted, spoiled a little in training as a codec would, normalized."""

import torch
import torch.nn.functional as F

from .batches import Batch
from .render import render, stamp, to_bytes
from .world import FRAME_SIZE

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CHUNK = 1024  # frames painted at once: bounds memory


def paint(batch: Batch, spoil: bool, stamp=stamp) -> torch.Tensor:
    """Normalized float32 `(B*F, 3, 112, 112)` from a batch's sprites; `spoil` blurs color and sharpness of some frames at random."""
    out = []
    for i in range(0, len(batch.sprites), CHUNK):
        part = slice(i, i + CHUNK)
        canvas = render(batch.sprites[part], batch.backdrop[part], batch.camera[part], FRAME_SIZE, stamp)
        canvas = canvas + torch.randn_like(canvas) * batch.noise[part, None, None, None]
        if spoil:
            canvas = _spoil(canvas)
        out.append(normalize(to_bytes(canvas)))
    return torch.cat(out)


def normalize(frames: torch.Tensor) -> torch.Tensor:
    """uint8 `(F, 3, H, W)` to float32 with the family's mean and deviation."""
    mean, std = (torch.tensor(v, device=frames.device)[:, None, None] for v in (MEAN, STD))
    return (frames.float() / 255 - mean) / std


def _spoil(canvas):
    """Half the frames lose color resolution as 4:2:0 video does, a third some sharpness; gain and tint wander."""
    count = len(canvas)

    def some(share):
        return (torch.rand(count, 1, 1, 1, device=canvas.device) < share).float()

    gray = canvas.mean(1, keepdim=True)
    soft = F.interpolate(F.avg_pool2d(canvas - gray, 2), scale_factor=2, mode="bilinear")
    canvas = canvas + some(0.5) * (gray + soft - canvas)
    blurred = F.avg_pool2d(F.pad(canvas, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    canvas = canvas + some(0.35) * 0.7 * torch.rand(count, 1, 1, 1, device=canvas.device) * (blurred - canvas)
    return canvas * (1 + 0.06 * torch.randn(count, 3, 1, 1, device=canvas.device).clamp(-2, 2))
