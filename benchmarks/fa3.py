"""FlashAttention-3 as a peer: the ready library `_vllm_fa3_C.abi3.so` out of a vllm wheel, loaded only when its path is given."""

import torch

SPLITS = (0, 1, 2, 3, 4, 6, 8, 12, 16)  # 0: its own choice


def load(path):
    """Register the library's ops."""
    torch.ops.load_library(path)


def paged(q, keys, values, table, lengths, starts, longest, context, out, splits):
    """Causal attention of ragged q (T, H, D) over pages (N, 128, K, D), no hole; writes `out`."""
    nothing = [None] * 10
    return torch.ops._vllm_fa3_C.fwd(
        q, keys, values, None, None, None, out, starts, None, None, None, lengths, longest, context, table, *nothing[:5], *nothing[:3],
        q.shape[-1] ** -0.5, True, -1, -1, 0.0, True, None, splits, None, 0, None, 1, 0, None,
    )[0]  # fmt: skip
