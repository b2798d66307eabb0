"""FlashAttention-3 as a peer: the ready library out of a vllm wheel, where there is one."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

NAME = "_vllm_fa3_C.abi3.so"
SPLITS = (0, 1, 2, 3, 4, 6, 8, 12, 16)  # 0: its own choice


@cache
def available():
    """Whether its ops are there: from `.fa3/` in the working directory, else from an installed vllm."""
    vllm = find_spec("vllm")
    folders = [Path(".fa3"), *(Path(folder) / "vllm_flash_attn" for folder in (vllm.submodule_search_locations if vllm else ()))]
    for library in (folder / NAME for folder in folders):
        if library.is_file():
            torch.ops.load_library(str(library.resolve()))
            return True
    return False


def paged(q, keys, values, table, lengths, starts, longest, context, out, splits):
    """Causal attention of ragged q (T, H, D) over pages (N, 128, K, D), no hole; writes `out`."""
    return forward(q, keys, values, out, starts, None, lengths, longest, context, table, True, splits)


def ragged(q, keys, values, out, starts, longest):
    """Attention of packed q, keys, values (T, H, D) within the segments that `starts` bounds; writes `out`."""
    return forward(q, keys, values, out, starts, starts, None, longest, longest, None, False, 0)


def forward(q, keys, values, out, starts, key_starts, lengths, longest, longest_keys, table, causal, splits):
    nothing = [None] * 10
    return torch.ops._vllm_fa3_C.fwd(
        q, keys, values, None, None, None, out, starts, key_starts, None, None, lengths, longest, longest_keys, table, *nothing[:5],
        *nothing[:3], q.shape[-1] ** -0.5, causal, -1, -1, 0.0, True, None, splits, None, 0, None, 1, 0, None,
    )[0]  # fmt: skip
