"""The products of one decoder layer of Qwen2.5-VL-7B, in bf16 and with weights in fp8, against PyTorch's own calls, weights cold.

    python -m benchmarks.bench_gemm [--refcheck] [--alone] [--only "fp8"]

"layer" is the four products one behind the other. In fp8, ours is what the engine calls: bf16 rows for few tokens, else, up to the tokens
of a few frames, a product whose scales the op behind applies (the op behind qkv does not: there the engine takes PyTorch's). PyTorch's call
takes fp8 rows and scales.
"""

from functools import partial

import torch
import torch.nn.functional as F

from evostreaming.kernels.gemm import bare_gemm, by_torch, gemm, quantizes
from evostreaming.kernels.product import Product
from evostreaming.kernels.quantize import quantize

from .cases import Case, main, speed_of

LAYER = {"qkv": (4608, 3584), "o": (3584, 3584), "gate_up": (37888, 3584), "down": (3584, 18944)}
SHAPES = {f"{kind}, {tokens} tokens": (kind, tokens) for kind in ("bf16", "fp8") for tokens in (1, 8, 64, 128, 272, 2176)}
COLD = 120 << 20  # bytes of weights that take turns: more than twice the L2 cache
BYTES = {"bf16": 2, "fp8": 1}  # an element


def operands(kind, tokens, width, depth):
    """[(x, weight), in fp8 (x, Quantized x, Quantized weight)] over enough different weights that none is found in the L2 cache."""
    count = max(2, -(-COLD // (width * depth * BYTES[kind])))
    x = torch.randn(tokens, depth, device="cuda", dtype=torch.bfloat16)
    weights = [torch.randn(width, depth, device="cuda", dtype=torch.bfloat16) * depth**-0.5 for _ in range(count)]
    return [(x, quantize(x), quantize(weight)) for weight in weights] if kind == "fp8" else [(x, weight) for weight in weights]


def ours_fp8(x, rows, weight):
    """What a layer calls; a Product where its scales are applied later."""
    return bare_gemm(*rows, *weight) if quantizes(len(x), x.device) else gemm(x, *weight)


def torch_fp8(x, rows, weight):
    return by_torch(*rows, *weight)


def refcheck(x, *operands):
    """Norm-relative error to float32; raises AssertionError above bf16 rounding, in fp8 above that of its sums (`kernels.gemm`)."""
    if len(operands) == 1:
        got, truth, most = gemm(x, *operands), F.linear(x.float(), operands[0].float()), 5e-3
    else:
        got, most = ours_fp8(x, *operands), 1e-2
        rows, weight = (part.values.float() * part.scales[:, None] for part in operands)
        truth = F.linear(rows if quantizes(len(x), x.device) else x.float(), weight)
    got = got.wide() if isinstance(got, Product) else got.float()
    error = ((got - truth).norm() / truth.norm()).item()
    assert error < most, error


def each(op, products):
    for operands in products:
        op(*operands)


def cases(kind, tokens):
    theirs, ours = (torch_fp8, ours_fp8) if kind == "fp8" else (F.linear, gemm)
    sets = {product: operands(kind, tokens, *shape) for product, shape in LAYER.items()}
    layer, moved, done = list(zip(*sets.values())), 0, 0
    for product, (width, depth) in LAYER.items():
        work = {"size": BYTES[kind] * (width + tokens) * depth + 2 * tokens * width, "flops": 2 * tokens * width * depth, "kind": kind}
        moved, done = moved + work["size"], done + work["flops"]
        check = partial(refcheck, *sets[product][0])
        for name, op, checked in (("ours", ours, check), ("torch", theirs, None)):
            yield Case(f"{kind}, {tokens} tokens, {product}", name, [partial(op, *one) for one in sets[product]], check=checked, **work)
    for name, op in (("ours", ours), ("torch", theirs)):
        calls = [partial(each, op, products) for products in layer]
        yield Case(f"{kind}, {tokens} tokens, layer", name, calls, size=moved, flops=done, kind=kind)


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
