"""The language decoder of all five families: norm, qkv, rope + append, attention over pages, MLP.

Families differ by `DecoderConfig` alone: qkv bias, QK-norm, the rope table, tied head, and how many first layers receive deepstack
features. Weights are fused once at load: q, k, v in one matrix, gate and up in one.
"""

import torch
from torch import nn

from ..kernels.append import append
from ..kernels.append_attention import append_attention
from ..kernels.gated_gemm import gated_gemm
from ..kernels.gemm import bare_gemm, gemm, quantize_weight, quantizes
from ..kernels.norm import norm
from ..kernels.product import added
from ..kernels.quantize import Quantized
from ..kernels.swiglu import swiglu


class Norm(nn.Module):
    """Holds the scale of an RMSNorm; the op is `kernels.norm`."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))


class Linear(nn.Module):
    """Holds a weight (N, K) and perhaps a bias, which the op behind adds; the op is `kernels.gemm`, in fp8 after `quantize_`."""

    def __init__(self, inputs, outputs, bias=False):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.scales = self.short_scales = self.dtype = None

    def quantize_(self):
        """Replace the weight by fp8 values and one scale a row."""
        self.dtype = self.weight.dtype
        values, self.scales, self.short_scales = quantize_weight(self.weight)
        self.weight = nn.Parameter(values, requires_grad=False)

    def forward(self, x):
        """x (T, K) -> (T, N), or `Quantized` where the weight is -> perhaps a `Product`, which the op behind finishes."""
        if isinstance(x, Quantized):
            return bare_gemm(*x, self.weight, self.scales, self.dtype, short_scales=self.short_scales)
        return gemm(x, self.weight, self.scales)


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config):
        super().__init__()
        self.eps = config.rms_eps
        queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.input_norm = Norm(config.hidden)
        self.qkv = Linear(config.hidden, queries + 2 * keys, config.qkv_bias)
        self.q_norm = Norm(config.head_dim) if config.qk_norm else None
        self.k_norm = Norm(config.head_dim) if config.qk_norm else None
        self.o = Linear(queries, config.hidden)
        self.post_norm = Norm(config.hidden)
        self.gate_up = Linear(config.hidden, 2 * config.intermediate)
        self.down = Linear(config.intermediate, config.hidden)

    def quantize_(self, down=True):
        """The MLP's weights to fp8, perhaps without `down`. The products of attention stay: they made two thirds of what rounding changes
        in a decision, and fp8 saves little on them, for one is scaled row by row and what goes into the other would be quantized alone."""
        self.gate_up.quantize_()
        if down:
            self.down.quantize_()

    def forward(self, update, residual, key_pages, value_pages, plan, rows=None):
        """One layer: the last layer's output and the residual stream, both (T, h) -> (output, residual stream), of `rows` if given."""
        x, residual = norm(update, self.input_norm.weight, self.eps, residual)
        scales = (self.q_norm.weight, self.k_norm.weight) if self.q_norm is not None else (None, None)
        q = append(self.qkv(x), plan.cos, plan.sin, key_pages, value_pages, plan.slots, *scales, self.eps, self.qkv.bias)
        if rows is not None and not len(rows):
            return residual[rows], residual[rows]  # nothing is read: its keys and values are all that the last layer is for
        x = append_attention(q, key_pages, value_pages, plan).flatten(1)
        if rows is not None:
            x, residual = x[rows], residual[rows]
        fp8 = self.gate_up.scales is not None and quantizes(len(x), x.device)
        x, residual = norm(self.o(x), self.post_norm.weight, self.eps, residual, fp8)
        if self.gate_up.scales is None:
            return self.down(gated_gemm(x, self.gate_up.weight)), residual
        return self.down(swiglu(self.gate_up(x), fp8 and self.down.scales is not None)), residual


class Decoder(nn.Module):
    """Embedding, layers, final norm and head."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab, config.hidden)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = Norm(config.hidden)
        if not config.tied:
            self.lm_head = nn.Linear(config.hidden, config.vocab, bias=False)

    @property
    def head(self):
        """The output matrix (V, h)."""
        return self.embed.weight if self.config.tied else self.lm_head.weight

    def forward(self, hidden, cache, plan, rows, visual_rows=None, deepstack=None):
        """Run T new tokens of B streams, append their keys and values to the cache, and read R rows of text: behind the attention of the
        last layer only those are computed.

        hidden: (T, h) embeddings with visual tokens in place; plan: `Plan` of these T tokens; rows: (R,); visual_rows: (N,) rows that
        are visual; deepstack: (S, N, h) features added to those rows after the first S layers.
        Returns the rows of the residual stream (R, h) before the final norm (the gate fuses it).
        """
        residual, last = None, len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            hidden, residual = layer(hidden, residual, cache.keys[index], cache.values[index], plan, rows if index == last else None)
            if deepstack is not None and index < min(len(deepstack), last):
                hidden = added(hidden, residual)
                hidden[visual_rows] += deepstack[index]
                residual = None
        return added(hidden, residual)
