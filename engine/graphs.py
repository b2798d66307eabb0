"""CUDA graphs of the tower, the decoder and the decode of replies: one graph a shape, replayed with new contents.

A shape is captured the second time it comes, so that what comes once costs no capture; the most recent ones are kept. Context length, page
tables and positions are contents: a stream grows without a new capture. Counts are rounded up, so that few shapes serve all batches: a
padding row writes no key (slot -1) and belongs to no stream, a padding stream has no token, a padding visual token lands on a padding row,
and every op but attention works row by row, so none of them changes anything. A step's two graphs and the gate are queued one behind the
other; nothing waits between them. Passes so large that the host launches them faster than the device computes stay as they are:
capturing them would cost memory, time and padding, and win nothing.
"""

import warnings
from collections import OrderedDict

import numpy as np
import torch

from ..kernels import append, append_attention
from .cache import most_pages
from .capture_turns import VoidCapture, capturing
from .plan import Plan

KEPT = 64
ROUND = 16  # new tokens are padded to a multiple of this, or of the power of two that is 2 to 3 % of them
LARGEST = 6e12  # multiply-adds of a captured pass: about 20 ms of a large GPU, twice what the host takes to launch the layers
AHEAD = 2  # passes of `TokenGraph` under way when the host waits for the first of them
SHARE = 16  # captures take at most about 1/SHARE of the device's memory
TRIES = 3  # to capture, when others keep waiting for the device
PAID = 32  # replays that are worth a capture, with a margin of two or three
FRAME_SHAPES = 4  # shapes of frames whose preprocessing is captured with the tower; a capture for each video of a benchmark would cost more
ALIGNED = 128  # bytes; kernels compiled for aligned arguments, as the allocator gives them, then serve here too


def weights_of(layers):
    """Number of weights, and so of multiply-adds a token, of a module."""
    return sum(weight.numel() for weight in layers.parameters())


def capturable(pages):
    """Whether the decoder's ops can be captured for this cache: kernels that never ask the host, in half precision on CUDA."""
    if pages.device.type != "cuda" or pages.dtype == torch.float32 or pages.shape[-1] not in (64, 128):
        return False
    return append.implementation("cuda") == "cuda" and append_attention.implementation("cuda") == "triton"


def round_tokens(count):
    """The padded number of tokens that stands for `count`."""
    step = max(ROUND, 1 << max(0, count.bit_length() - 6))
    return -(-count // step) * step


def round_streams(count):
    """The padded number of streams: 1, 2, 3, 4, 6, 8, 12, 16, 24, ..."""
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power


class Graphs:
    """The captured shapes of one engine, most recent last; they share one memory pool, for they never run at once.

    A graph that is dropped leaves its blocks of the pool to later captures; to the device the pool gives nothing back before the last of
    its graphs is gone. So `bytes` is what the pool has grown to, and room for more is made by dropping all graphs and beginning a new pool.
    """

    def __init__(self, device):
        self.kept, self.seen, self.pool, self.bytes, self.replays = OrderedDict(), set(), None, 0, 0
        self.limit = torch.cuda.mem_get_info(device)[1] // SHARE if device.type == "cuda" else float("inf")

    def get(self, key, make):
        """The graph of a shape, made by `make()` the second time the shape is asked for; None the first time, for a new shape when the
        captures have taken all the memory they may and have not yet been worth it, and when others of this process prevent the capture."""
        if key not in self.kept:
            if key not in self.seen or not self.has_room():
                self.seen.add(key)
                return None
            while len(self.kept) >= KEPT:
                self.kept.popitem(last=False)  # first, so that its blocks can serve the new one
            try:
                self.kept[key] = make()
            except VoidCapture:
                self.seen.discard(key)  # not at once
                warnings.warn("no CUDA graph: another thread keeps waiting for the device; it is tried again later", stacklevel=2)
                return None
        self.kept.move_to_end(key)
        self.replays += 1
        return self.kept[key]

    def has_room(self):
        """Whether another shape may be captured. A full pool is left once its graphs were replayed often enough to pay for capturing them
        again, so that shapes that come no more make way, and more shapes than fit cost no capture each time."""
        if self.bytes < self.limit:
            return True
        if self.replays < PAID * len(self.kept):
            return False
        self.kept.clear()
        self.pool, self.bytes, self.replays = None, 0, 0
        return True

    def capture(self, function):
        """(graph, what `function` returned inside it). Runs it once before, so that lazy set-up stays outside. Raises VoidCapture."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function()
        side.synchronize()
        torch.cuda.empty_cache()
        for left in reversed(range(TRIES)):
            self.pool, graph = self.pool or torch.cuda.graph_pool_handle(), torch.cuda.CUDAGraph()
            before = torch.cuda.memory_reserved()  # this process's own, unlike what the device says is free
            try:
                with capturing(graph, self.pool):
                    result = function()
                return graph, result
            except VoidCapture:
                self.pool = None  # those that are kept have the old one, later ones share another
                if not left:
                    raise
            finally:
                self.bytes += max(0, torch.cuda.memory_reserved() - before)


class TowerGraph:
    """A tower over inputs of fixed shape: `look(inputs)` gives (VisualTokens, peak). `constants`: what the captured kernels read besides
    weights; the caches it comes from keep only the most recent ones."""

    def __init__(self, graphs, look, inputs, constants):
        self.inputs, self.constants = inputs.clone(memory_format=torch.contiguous_format), constants
        self.graph, self.seen = graphs.capture(lambda: look(self.inputs))

    def __call__(self, inputs):
        """What `look` gives; the inputs may lie on the host, the results are the caller's own."""
        self.inputs.copy_(inputs, non_blocking=True)
        self.graph.replay()
        visual, peak = self.seen  # in memory that other graphs work in
        return type(visual)(*(None if part is None else part.clone() for part in visual)), peak.clone()


class DecoderGraph:
    """A decoder pass of padded sizes: B streams with T new tokens, at most `longest` in one of them, N visual, R rows read out."""

    part = "decoder"

    @classmethod
    def of(cls, forward, batch):
        """The graph for a batch; None when there is none (yet)."""
        key = shape_of(batch)
        if forward.graphs is None or key[1] * forward.weights > LARGEST:
            return None
        return forward.graphs.get((cls.part, *key), lambda: cls(forward, batch, *key))

    def __init__(self, forward, batch, streams, tokens, longest, visual, rows):
        pages = most_pages(forward.max_tokens)
        wide = {"ids": (tokens,), "positions": (3, tokens), "slots": (tokens,), "visual_rows": (visual,), "rows": (rows,)}
        narrow = {"table": (streams, pages), "lengths": (streams,), "holes": (streams, 2), "query_start": (streams + 1,)}
        self.staging = Staging(wide, narrow, forward.device)
        self.features, self.deepstack = None, None
        if visual:
            example = batch.features[0]
            self.features = example.tokens.new_zeros(visual, example.tokens.shape[1])
            if example.deepstack is not None:
                self.deepstack = example.deepstack.new_zeros(len(example.deepstack), visual, example.deepstack.shape[2])
        self.stage(batch)
        self.staging.device["slots"].fill_(-1)  # captured without writing
        self.graph, self.hidden = forward.graphs.capture(lambda: self.run(forward, longest))

    def run(self, forward, longest):
        """What is captured: hidden rows (R, h)."""
        there = self.staging.device
        where = (there["slots"], there["table"], there["lengths"], there["holes"], there["query_start"])
        plan = Plan(forward.rope, there["positions"], *where, longest)
        return forward.compute(there["ids"], there["visual_rows"], self.features, self.deepstack, plan, there["rows"])

    def __call__(self, batch):
        """Hidden rows (R, h) of a batch of this shape; the tensor is the caller's own."""
        self.stage(batch)
        self.graph.replay()
        return self.hidden[: len(batch.rows)].clone()

    def stage(self, batch):
        """Send the contents of a batch to where the graph reads them."""
        here = self.staging.writable()
        tokens, visual = len(batch.ids), len(batch.visual_rows)
        fill(here["ids"], batch.ids, 0)
        fill(here["slots"], batch.slots.numpy(), -1)
        fill(here["visual_rows"], batch.visual_rows, len(here["ids"]) - 1)
        fill(here["rows"], batch.rows, 0)
        here["positions"][:, :tokens] = batch.positions.numpy()
        here["positions"][:, tokens:] = 0
        for row, pages in zip(here["table"], batch.tables):
            row[: len(pages)] = pages  # what stands behind them is never read
        fill(here["lengths"], batch.lengths, 0)
        fill(here["holes"], batch.holes, 0)
        fill(here["query_start"], batch.query_start, tokens)
        self.staging.send()
        if visual:
            torch.cat([frame.tokens for frame in batch.features], out=self.features[:visual])
            if self.deepstack is not None:
                self.deepstack[:, :visual] = torch.cat([frame.deepstack for frame in batch.features], dim=1)


class TokenGraph(DecoderGraph):
    """Decoding of B streams by themselves: one token each, the likeliest next ones, and the inputs of the pass behind it, all in one graph.

    A pass that is launched before the host has read the tokens of the last one may be one too many: it writes behind the end of its
    stream, where anything may stand. So no pass may leave the page that the batch's own slot of a stream lies in.
    """

    part = "tokens"

    def __init__(self, forward, batch, *sizes):
        super().__init__(forward, batch, *sizes)
        cuda = forward.device.type == "cuda"
        self.landed = [torch.zeros(sizes[0], dtype=torch.long, pin_memory=cuda) for _ in range(AHEAD)]
        self.arrived = [torch.cuda.Event() for _ in range(AHEAD)] if cuda else None

    def run(self, forward, longest):
        """What is captured; leaves the tokens in `ids`, where the next pass takes them from."""
        there = self.staging.device
        torch.argmax(forward.logits(super().run(forward, longest)), -1, out=there["ids"])
        moved = there["slots"] >= 0  # padding stays where it is
        for name in ("positions", "slots", "lengths"):
            there[name] += moved

    def __call__(self, batch, passes, wanted):
        """Yields the ids of each pass, a list of B ints: of `passes`, or of those launched while `wanted()`. Leaving early is fine."""
        self.stage(batch)
        launched = read = 0
        while True:
            while launched < min(passes, read + AHEAD) and wanted():
                self.launch(launched % AHEAD)
                launched += 1
            if read == launched:
                return
            if self.arrived:
                self.arrived[read % AHEAD].synchronize()
            yield self.landed[read % AHEAD][: len(batch.ids)].tolist()
            read += 1

    def launch(self, place):
        """Queue a pass and its tokens' way to the host."""
        self.graph.replay()
        self.landed[place].copy_(self.staging.device["ids"], non_blocking=True)
        if self.arrived:
            self.arrived[place].record()


def shape_of(batch):
    """Padded sizes of a batch: (streams, tokens, longest, visual, rows). Batches of one token a stream, the decode of replies, stay so."""
    streams, tokens, visual = round_streams(len(batch.counts)), len(batch.ids), len(batch.visual_rows)
    rows = round_streams(len(batch.rows)) if batch.rows else 0
    if max(batch.counts) == 1 and not visual:
        return streams, streams, 1, 0, rows
    padded = round_tokens(visual) if visual else 0
    tokens = round_tokens(tokens + (padded > visual))  # padding visual tokens need a padding row to land on
    return streams, tokens, min(tokens, round_tokens(max(batch.counts))), padded, rows


def fill(row, values, rest):
    """Write `values` at the start of an array and `rest` behind them."""
    if len(values):
        row[: len(values)] = values
    row[len(values) :] = rest


class Staging:
    """Small integers on their way to a graph: one pinned buffer, one copy, named views on both sides.

    wide, narrow: shapes of the int64 and of the int32 arrays by name. `device` holds the tensors.
    """

    def __init__(self, wide, narrow, device):
        sizes = {name: (8, shape) for name, shape in wide.items()} | {name: (4, shape) for name, shape in narrow.items()}
        ends, end = {}, 0
        for name, (width, shape) in sizes.items():
            begin = -(-end // ALIGNED) * ALIGNED
            end = begin + width * int(np.prod(shape))
            ends[name] = slice(begin, end)
        cuda = device.type == "cuda"
        self.pinned = torch.zeros(end, dtype=torch.uint8, pin_memory=cuda)
        self.buffer = torch.zeros(end, dtype=torch.uint8, device=device)
        bytes_, types = self.pinned.numpy(), {8: (np.int64, torch.int64), 4: (np.int32, torch.int32)}
        self.host = {name: bytes_[ends[name]].view(types[width][0]).reshape(shape) for name, (width, shape) in sizes.items()}
        self.device = {name: self.buffer[ends[name]].view(types[width][1]).view(shape) for name, (width, shape) in sizes.items()}
        self.sent = torch.cuda.Event() if cuda else None

    def writable(self):
        """The host's arrays, once the copy before is through."""
        if self.sent is not None:
            self.sent.synchronize()
        return self.host

    def send(self):
        """Start copying everything to the device."""
        self.buffer.copy_(self.pinned, non_blocking=True)
        if self.sent is not None:
            self.sent.record()
