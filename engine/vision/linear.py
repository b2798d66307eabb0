"""The products of the towers' blocks: in half precision, or in fp8 after `quantize_`."""

from functools import partial

from torch import nn

from ...kernels.gemm import bare_gemm, quantize_weight, scaled_gemm
from ..quantization import MULTIPLE


class Linear(nn.Linear):
    """A linear layer with a bias. Where `fp8` is true its input is `Quantized`, which the op in front gives."""

    scales = short_scales = None

    @property
    def fp8(self):
        return self.scales is not None

    def quantize_(self):
        """Replace the weight by fp8 values and one scale a row, if its sides are such as the tensor cores take."""
        if not any(side % MULTIPLE for side in self.weight.shape):
            values, self.scales, self.short_scales = quantize_weight(self.weight)
            self.weight = nn.Parameter(values, requires_grad=False)

    def forward(self, x, bare=False):
        """x: (P, inputs) -> (P, outputs). bare: it may be a `Product`, which the op behind finishes."""
        if not self.fp8:
            return super().forward(x)
        product = partial(bare_gemm, short_scales=self.short_scales) if bare else scaled_gemm
        return product(*x, self.weight, self.scales, self.bias.dtype, self.bias)
