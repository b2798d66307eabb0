"""The towers' norms, with the residual add in front of them: a branch's output joins the stream where the next norm reads it anyway."""

from torch import nn

from ...kernels.norm import layer_norm, norm


class RMSNorm(nn.RMSNorm):
    def forward(self, x, delta=None, quantized=False):
        """x, delta: (P, width), delta perhaps a `Product` -> (normalized, `Quantized` if asked for, x + delta), one kernel."""
        branch, stream = (x, None) if delta is None else (delta, x)
        return norm(branch, self.weight, self.eps, stream, quantized)


class LayerNorm(nn.LayerNorm):
    def forward(self, x, delta=None, quantized=False):
        """x, delta: (P, width), delta perhaps a `Product` -> (normalized, `Quantized` if asked for, x + delta), one kernel."""
        branch, stream = (x, None) if delta is None else (delta, x)
        return layer_norm(branch, self.weight, self.bias, self.eps, stream, quantized)
