"""A product in fp8 whose scales, and bias, the op behind it applies in passing.

    out = values * token scale * column scale + bias

cuBLAS multiplies a frame's tokens in fp8 up to 1.7 times as fast when it need not scale rows and columns itself: it has other kernels then,
with a tile for every number of tokens. `gemm.bare_gemm` makes a `Product` where that pays; `norm`, `swiglu` and `gelu` take one for x.

Shapes: values (T, N); scales (T,) and (N,) float32; bias (N,) or None; out (T, N).
"""

from typing import NamedTuple

import torch

from .optional_triton import jit, tl


class Product(NamedTuple):
    """values * token_scales[:, None] * column_scales + bias, not yet computed: (T, N)."""

    values: torch.Tensor
    token_scales: torch.Tensor
    column_scales: torch.Tensor
    bias: torch.Tensor | None = None

    def wide(self):
        """(T, N) float32."""
        out = self.values * self.token_scales[:, None] * self.column_scales
        return out if self.bias is None else out + self.bias


def dense(x):
    """x, or what a `Product` stands for, (T, N) in the dtype of its values."""
    return x.wide().to(x.values.dtype) if isinstance(x, Product) else x


def added(x, residual):
    """x + residual (T, N), rounded once; a residual of None is nothing."""
    if residual is None:
        return dense(x)
    return (x.wide() + residual).to(residual.dtype) if isinstance(x, Product) else x + residual


def parts(x):
    """(values, token scales, column scales, bias) of a `Product`, or (x, None, None, None)."""
    return x if isinstance(x, Product) else (x, None, None, None)


@jit
def load_wide(values, token_scales, column_scales, bias, row, columns, inside):
    """Columns of one row in float32, scaled where there are scales; `values` points to the row."""
    wide = tl.load(values + columns, inside, 0.0).to(tl.float32)
    if token_scales is not None:
        wide = wide * tl.load(token_scales + row) * tl.load(column_scales + columns, inside, 0.0).to(tl.float32)
    if bias is not None:
        wide += tl.load(bias + columns, inside, 0.0).to(tl.float32)
    return wide
