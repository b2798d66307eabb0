"""The products of one decoder layer of Qwen2.5-VL-7B, in bf16 and with weights in fp8, against PyTorch's own calls, weights cold.

    python -m benchmarks.bench_gemm [--refcheck] [--alone] [--only "fp8"]

"qwen3" is a layer of Qwen3-VL-8B, "tower" one of the tower of Qwen2.5-VL with its padded channels. On Hopper, "hopper RxC" is
csrc/gemm_hopper.cuh with clusters of R CTAs along weight rows and C along tokens, whether `gemm` goes that way or not.

"layer" is the four products one behind the other. In fp8, ours is what the engine calls: bf16 rows for few tokens, else, up to the tokens
of a few frames, a product whose scales the op behind applies (the op behind qkv does not: there the engine takes PyTorch's). PyTorch's call
takes fp8 rows and scales.
"""

from functools import partial

import torch
import torch.nn.functional as F

from evostreaming.kernels.gemm import bare_gemm, by_torch, gemm, quantizes
from evostreaming.kernels.hopper_gemm import Way, hopper_gemm, interleaved, takes, tile_for
from evostreaming.kernels.product import Product
from evostreaming.kernels.quantize import quantize
from evostreaming.kernels.swiglu import reference_swiglu, swiglu

from .cases import Case, main, speed_of

LAYER = {"qkv": (4608, 3584), "o": (3584, 3584), "gate_up": (37888, 3584), "down": (3584, 18944)}
QWEN3 = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (24576, 4096), "down": (4096, 12288)}
TOWER = {"qkv": (3840, 1280), "proj": (1280, 1280), "gate_up": (6912, 1280), "down": (1280, 3456)}
SHAPES = {
    **{f"{kind}, {tokens} tokens": (kind, tokens) for kind in ("bf16", "fp8") for tokens in (1, 8, 64, 128, 144, 272, 1024, 2176)},
    **{f"qwen3, {tokens} tokens": ("bf16", tokens, "qwen3", QWEN3) for tokens in (144, 272)},
    **{f"tower, {tokens} tokens": ("bf16", tokens, "tower", TOWER) for tokens in (1024, 8192)},
}
FEWEST = 72  # tokens of the smallest tile of the Hopper product
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


def by_hopper(way, x, weight):
    return hopper_gemm(x, weight, way)


def torch_fp8(x, rows, weight):
    return by_torch(*rows, *weight)


def ways(tokens):
    """{name: Way} to try for so many tokens."""
    found = {}
    for rows, columns in ((2, 1), (4, 1), (1, 2), (2, 2)):
        tile = tile_for(tokens, columns)
        found[f"hopper {rows}x{columns} of {tile}"] = Way(tile, rows, columns)
    tile = tile_for(tokens)
    found[f"hopper 2x1 of {tile}, whole tiles"] = Way(tile, split=False)
    for other in (256, 288):  # whether the tensor core minds eights that are no sixteens
        if tokens > 256 and other != tile:
            found[f"hopper 2x1 of {other}"] = Way(other)
    return found


def refcheck(op, x, *operands):
    """Norm-relative error to float32; raises AssertionError above bf16 rounding, in fp8 above that of its sums (`kernels.gemm`)."""
    if len(operands) == 1:
        got, truth, most = op(x, *operands), F.linear(x.float(), operands[0].float()), 5e-3
    else:
        got, most = op(x, *operands), 1e-2
        rows, weight = (part.values.float() * part.scales[:, None] for part in operands)
        truth = F.linear(rows if quantizes(len(x), x.device) else x.float(), weight)
    got = got.wide() if isinstance(got, Product) else got.float()
    error = ((got - truth).norm() / truth.norm()).item()
    assert error < most, error


def gated_cases(what, products):
    """gate_up and the activation behind it, as two kernels and as one; products: [(x, weight)]."""
    (tokens, depth), width = products[0][0].shape, len(products[0][1])
    work = {"size": 2 * (width + tokens) * depth + tokens * width, "flops": 2 * tokens * width * depth}
    two = [partial(lambda x, weight: swiglu(F.linear(x, weight)), *one) for one in products]
    yield Case(what, "torch and swiglu", two, **work)
    mixed = [(x, interleaved(weight)) for x, weight in products]
    for name, way in ways(tokens).items():
        calls = [partial(hopper_gemm, *one, way, gated=True) for one in mixed]
        yield Case(what, name, calls, check=partial(refcheck_gated, calls[0], *products[0]), **work)


def refcheck_gated(call, x, weight):
    """Norm-relative error to float32; raises AssertionError above bf16 rounding."""
    truth = reference_swiglu(F.linear(x.float(), weight.float()))
    error = ((call().float() - truth).norm() / truth.norm()).item()
    assert error < 5e-3, error


def each(op, products):
    for operands in products:
        op(*operands)


def cases(kind, tokens, model=None, shapes=LAYER):
    theirs, ours = (torch_fp8, ours_fp8) if kind == "fp8" else (F.linear, gemm)
    sets = {product: operands(kind, tokens, *shape) for product, shape in shapes.items()}
    hopper = {}
    if kind == "bf16" and tokens >= FEWEST and takes(*sets["qkv"][0]):
        hopper = {name: partial(by_hopper, way) for name, way in ways(tokens).items()}
    layer, moved, done = list(zip(*sets.values())), 0, 0
    for product, (width, depth) in shapes.items():
        work = {"size": BYTES[kind] * (width + tokens) * depth + 2 * tokens * width, "flops": 2 * tokens * width * depth, "kind": kind}
        moved, done = moved + work["size"], done + work["flops"]
        for name, op in {"ours": ours, "torch": theirs, **hopper}.items():
            check = None if op is theirs else partial(refcheck, op, *sets[product][0])
            calls = [partial(op, *one) for one in sets[product]]
            yield Case(f"{model or kind}, {tokens} tokens, {product}", name, calls, check=check, **work)
    if hopper:
        yield from gated_cases(f"{model or kind}, {tokens} tokens, gate_up and swiglu", sets["gate_up"])
    for name, op in {"ours": ours, "torch": theirs, **hopper}.items():
        calls = [partial(each, op, products) for products in layer]
        yield Case(f"{model or kind}, {tokens} tokens, layer", name, calls, size=moved, flops=done, kind=kind)


test_speed = speed_of(SHAPES, cases)

if __name__ == "__main__":
    main(__doc__, SHAPES, cases)
