"""The reference implementations at published sizes with random weights, on any device, and our model with the same weights.

transformers has four of the five; the fifth is transformers' decoder under `minicpm_reference.py`.
"""

import torch

from evostreaming.engine.checkpoint import all_placements, allocate

from .minicpm_reference import MiniCPMReference
from .random_checkpoint import published_config, read_config

CLASSES = {
    "qwen2-vl-7b": "Qwen2VLForConditionalGeneration",
    "qwen2.5-vl-7b": "Qwen2_5_VLForConditionalGeneration",
    "qwen3-vl-8b": "Qwen3VLForConditionalGeneration",
    "internvl3.5-8b": "InternVLForConditionalGeneration",
}


def random_reference(name, device, dtype=torch.bfloat16, seed=0):
    """The reference of a published size with sdpa attention. Nothing is zero: the libraries' own start leaves whole branches silent."""
    import transformers

    config = read_config(name)[0]
    with torch.device(device):
        if name in CLASSES:
            kind = getattr(transformers, CLASSES[name])
            model = kind._from_config(kind.config_class.from_dict(config), dtype=dtype, attn_implementation="sdpa")
        else:
            model = MiniCPMReference(config, dtype)
    # Converting a built model to bfloat16 would round its rotary frequencies too, and no truth could be made of it again.
    assert all(buffer.dtype == torch.float32 for buffer in model.buffers() if buffer.is_floating_point())
    generator = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for key, value in model.named_parameters():
            table = any(part in key for part in ("embed_tokens", "position_emb", "pos_embed"))
            if value.dim() > 1:
                value.normal_(std=0.5 if table else value[0].numel() ** -0.5, generator=generator)
            else:
                value.normal_(mean=0.0 if key.endswith("bias") else 1.0, std=0.1, generator=generator)
    return model.eval().requires_grad_(False)


def same_weights(name, reference):
    """Our model with the reference's weights, in its dtype and on its device."""
    config = published_config(name)
    some = next(reference.parameters())
    model = allocate(config, some.device, some.dtype)
    places = all_placements(model)
    filled = set()
    for key, value in reference.state_dict().items():
        for place in places.get(key, ()):
            place.fill(value, config.vision.patch)
            filled.add((place.parameter.data_ptr(), place.start))
    wanted = {(place.parameter.data_ptr(), place.start) for each in places.values() for place in each}
    assert filled == wanted, f"{len(wanted - filled)} parts of the weights have no source in the reference"
    return model


def image_of(rows, grid, patch, merge):
    """Patch rows (P, 3 * patch^2) of a grid of patches back to the normalized image (3, H, W)."""
    gh, gw = grid
    blocks = rows.view(gh // merge, gw // merge, merge, merge, 3, patch, patch)
    return blocks.permute(4, 0, 2, 5, 1, 3, 6).reshape(3, gh * patch, gw * patch)


@torch.inference_mode()
def next_token_logits(reference, config, ids, visual_id, rows, grid):
    """One pass of the reference from position zero: float32 (V,).

    ids: list of T ints with every frame's placeholders, rows: patch rows of each frame in float32, grid: patches of a frame, alike for all.
    """
    device = rows[0].device
    ids = torch.tensor([ids], device=device)
    visual = ids == visual_id
    images = [image_of(each, grid, config.pixels.patch, config.pixels.merge) for each in rows]
    if isinstance(reference, MiniCPMReference):
        return reference(ids, visual, images).float()
    inputs = {"pixel_values": torch.stack(images)}
    if config.decoder.mrope_section is not None:
        # A still frame fills both temporal slices.
        pairs = [each.view(len(each), 3, 1, -1).expand(-1, -1, 2, -1).flatten(1) for each in rows]
        shapes = torch.tensor([[1, *grid]] * len(rows), device=device)
        inputs = {"pixel_values": torch.cat(pairs), "image_grid_thw": shapes, "mm_token_type_ids": visual.int()}
    inputs["pixel_values"] = inputs["pixel_values"].to(reference.dtype)
    out = reference(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, logits_to_keep=1, **inputs)
    return out.logits[0, -1].float()
