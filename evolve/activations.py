"""What a forward pass leaves for the backward pass: as many layers as memory has room for keep their activations, the others compute
them again."""

import torch
from torch.utils.checkpoint import checkpoint

from .tunable import LINEAR

SHARE = 0.8  # of the free memory; the rest is for gradients on their way, the logits, and what the estimate below misses


class Activations:
    """Replaces the forward of a decoder's `layers` by one that keeps or recomputes, compiled or not.

    room: bytes that activations may take. A compiled layer keeps little but the operands of its products: norms, rotations and gates are
    fused into the kernels of the backward pass.
    """

    def __init__(self, layers, room, compiled=False):
        self.layers, self.room, self.kept, self.used = list(layers), room, 0, 0
        products = [each for name, each in self.layers[0].named_modules() if name.rsplit(".", 1)[-1] in LINEAR]
        self.bytes = sum(each.in_features + each.out_features for each in products) * products[0].weight.element_size()
        for place, layer in enumerate(self.layers):
            run = _compiled(layer.forward) if compiled else layer.forward
            layer.forward = self._choosing(place, run)

    def fit(self, tokens):
        """For the rows of `tokens` tokens that follow: the number of layers that are computed twice."""
        self.kept = int(min(len(self.layers), self.room / (self.bytes * tokens)))
        self.used = self.kept * self.bytes * tokens
        return len(self.layers) - self.kept

    def shrink(self):
        """Memory was less than it seemed: half of what was kept from now on. False if nothing was."""
        self.room = self.used / 2
        return self.kept > 0

    def _choosing(self, place, run):
        def forward(*args, **more):
            # The first ones: when they are computed again, what the later ones kept is free.
            if place < len(self.layers) - self.kept and torch.is_grad_enabled():
                return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **more)
            return run(*args, **more)

        return forward


def _compiled(run):
    """`run` compiled once for rows of all lengths; numbers that are no lengths, as a norm's epsilon, stay what they are."""
    return torch._dynamo.config.patch(specialize_float=True)(torch.compile(run, dynamic=True))


def free_room(device):
    """Bytes of a device's memory that activations may take now."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    else:
        import psutil

        free = psutil.virtual_memory().available
    return SHARE * free
