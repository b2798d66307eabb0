"""How fast a step can be: bytes and FLOPs of every stage from the configuration alone, and the time the machine's ceilings allow.

A part costs at least max(FLOPs / rate of the matrix units, bytes / copy bandwidth); a stage is the sum of its parts, a step the sum of its
stages. Counted are weights read once, keys and values read and written, pixels in and patch rows out; activations, which stay in the L2
cache, and elementwise work are not.
"""

from dataclasses import dataclass

GATED_TOWERS = {"qwen2_5_vl"}  # their MLP has three matrices, the others' two
CLASS_TOKENS = {"internvl": 1}


@dataclass(frozen=True)
class Ceilings:
    """What the machine reaches: bandwidth in bytes/s of a device copy, flops in FLOP/s of a large matrix product in the step's dtype."""

    bandwidth: float
    flops: float


@dataclass(frozen=True)
class Part:
    """Work of one part of a stage. `quantizable`: its matrices are those that fp8 replaces, of decoder or tower."""

    flops: float
    bytes: float
    quantizable: bool = False

    def floor(self, ceilings, quantized=False):
        """Milliseconds at the ceilings; 8-bit products run at twice the rate."""
        rate = ceilings.flops * (2 if quantized and self.quantizable else 1)
        return max(self.flops / rate, self.bytes / ceilings.bandwidth) * 1e3


@dataclass(frozen=True)
class Work:
    """What one step is asked to do: `streams` frames of (height, width) as the model sees them, each `tokens` new tokens (text round the
    frame included) behind `context` resident ones. item: bytes of an activation, weight_item: bytes of a weight that fp8 would replace."""

    streams: int
    context: int
    tokens: int
    size: tuple
    item: int = 2
    weight_item: int = 2


def decoder_weights(decoder):
    """Number of weights in all matrices of the decoder's layers."""
    queries, keys = decoder.heads * decoder.head_dim, decoder.kv_heads * decoder.head_dim
    layer = decoder.hidden * (2 * queries + 2 * keys) + 3 * decoder.hidden * decoder.intermediate
    return decoder.layers * layer


def vision_weights(vision):
    """(weights that every patch passes, weights of the mergers that every merged patch passes, weights of a resampler on patches, on its
    queries)."""
    matrices = 3 if vision.tower in GATED_TOWERS else 2
    blocks = vision.layers * (4 * vision.hidden**2 + matrices * vision.hidden * vision.intermediate)
    embed = 3 * vision.patch**2 * vision.hidden
    if vision.queries:
        width = vision.out_hidden
        return blocks + embed, 0, vision.hidden * width + 2 * width**2, 3 * width**2
    joined = vision.hidden * vision.merge**2
    inner = vision.out_hidden if vision.tower in CLASS_TOKENS else joined
    merger = joined * inner + inner * vision.out_hidden
    return blocks + embed, merger * (1 + len(vision.deepstack)), 0, 0


def vision_parts(vision, work):
    """The tower on the step's frames: the products of its blocks that fp8 replaces, and the rest."""
    rows = work.size[0] // vision.patch * (work.size[1] // vision.patch)
    length = rows + CLASS_TOKENS.get(vision.tower, 0)
    on_patches, merger, keys, on_queries = vision_weights(vision)
    products = on_patches - vision.layers * vision.hidden**2 - 3 * vision.patch**2 * vision.hidden  # without proj and the embedding
    flops = 2 * ((on_patches - products) * length + merger * rows / vision.merge**2 + keys * rows + on_queries * vision.queries)
    full = len(vision.full_attention) if vision.window else vision.layers
    window = min(vision.window**2, rows)
    flops += 4 * length * vision.hidden * (full * length + (vision.layers - full) * window)
    flops += 4 * vision.queries * rows * vision.out_hidden
    return {
        "matrices": Part(2 * products * length * work.streams, products * work.weight_item, quantizable=True),
        "rest": Part(flops * work.streams, (on_patches - products + merger + keys + on_queries) * work.item),
    }


def stage_parts(config, work):
    """{stage: {part: Part}} of one step; `reply` is one decoded token of all streams."""
    decoder, new = config.decoder, work.streams * work.tokens
    mlps, head = 3 * decoder.layers * decoder.hidden * decoder.intermediate, decoder.vocab * decoder.hidden
    others = decoder_weights(decoder) - mlps
    token = 2 * decoder.layers * decoder.kv_heads * decoder.head_dim * work.item
    per_pair = 4 * decoder.heads * decoder.head_dim * decoder.layers * work.streams

    def products(rows):
        return {
            "matrices": Part(2 * mlps * rows, mlps * work.weight_item, quantizable=True),
            "matrices of attention": Part(2 * others * rows, others * work.item),
        }

    def attention(tokens):
        flops = per_pair * (tokens * work.context + tokens * (tokens + 1) / 2)
        return Part(flops, token * work.streams * (work.context + 2 * tokens))

    pixels = 3 * work.size[0] * work.size[1] * work.streams
    head_part = Part(2 * head * work.streams, head * work.item)
    return {
        "preprocess": {"pixels": Part(0, pixels * (1 + work.item))},
        "vision": vision_parts(config.vision, work),
        "prefill": {**products(new), "attention": attention(work.tokens)},
        "gate": {"head": head_part},
        "reply": {**products(work.streams), "attention": attention(1), "head": head_part},
    }


def floors(config, work, ceilings):
    """{stage: {"bytes", "flops", "floor_ms"}} of one step of `work`; `reply` is a token."""
    quantized = work.weight_item < work.item
    return {
        stage: {
            "bytes": sum(part.bytes for part in parts.values()),
            "flops": sum(part.flops for part in parts.values()),
            "floor_ms": sum(part.floor(ceilings, quantized) for part in parts.values()),
        }
        for stage, parts in stage_parts(config, work).items()
    }


def measure_ceilings(device, dtype):
    """Copy bandwidth and matrix rate of this machine: best of a few runs of a 2 GiB copy and an 8192³ product (64 MiB, 1024³ on a CPU)."""
    import torch

    cuda = device.type == "cuda"
    source = torch.ones(2**31 if cuda else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    side = 8192 if cuda else 1024
    a = torch.randn(side, side, device=device, dtype=dtype)
    out = torch.empty_like(a)
    copy = best_seconds(lambda: target.copy_(source), device)
    product = best_seconds(lambda: torch.mm(a, a, out=out), device)
    return Ceilings(2 * source.numel() / copy, 2 * side**3 / product)


def best_seconds(call, device, tries=8):
    """Fastest of a few timed calls, after two untimed ones."""
    import time

    import torch

    spent = []
    for index in range(tries + 2):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            seconds = start.elapsed_time(end) / 1e3
        else:
            begin = time.perf_counter()
            call()
            seconds = time.perf_counter() - begin
        if index >= 2:
            spent.append(seconds)
    return min(spent)
