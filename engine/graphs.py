"""CUDA graphs of the two heavy parts of a step, the tower and the decoder: one graph a shape, replayed with new contents.

A shape is captured the second time it comes, so that what comes once costs no capture; the most recent ones are kept. Context length, page
tables and positions are contents: a stream grows without a new capture. Odd lengths are padded: a padding row writes no key (slot -1) and
belongs to no stream, and every other op works row by row, so it changes nothing.
"""

from collections import OrderedDict

import torch

from ..kernels import append, append_attention
from .cache import most_pages
from .plan import Plan

KEPT = 48
ROUND = 16  # new tokens are padded to a multiple of this


def capturable(pages):
    """Whether the decoder's ops can be captured for this cache: kernels that never ask the host, in half precision on CUDA."""
    if pages.device.type != "cuda" or pages.dtype == torch.float32 or pages.shape[-1] not in (64, 128):
        return False
    return append.implementation("cuda") == "cuda" and append_attention.implementation("cuda") == "triton"


class Graphs:
    """The captured shapes of one engine, most recent last; they share one memory pool, for they never run at once."""

    def __init__(self):
        self.kept, self.seen, self.pool = OrderedDict(), set(), torch.cuda.graph_pool_handle()

    def get(self, key, make):
        """The graph of a shape, made by `make()` the second time the shape is asked for; None the first time."""
        if key not in self.kept:
            if key not in self.seen:
                self.seen.add(key)
                return None
            self.kept[key] = make()
            if len(self.kept) > KEPT:
                self.kept.popitem(last=False)
        self.kept.move_to_end(key)
        return self.kept[key]

    def capture(self, function):
        """(graph, what `function` returned inside it). Runs it once before, so that lazy set-up stays outside."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            result = function()
        return graph, result


class TowerGraph:
    """A tower over frames of fixed grids."""

    def __init__(self, graphs, tower, patches, grids):
        self.patches, self.plan = patches.clone(), tower.plan(grids)  # held: the tower keeps only recent plans
        self.graph, self.visual = graphs.capture(lambda: tower(self.patches, grids))

    def __call__(self, patches):
        """Visual tokens of patch rows (P, C); the tensors are the caller's own."""
        self.patches.copy_(patches)
        self.graph.replay()
        return type(self.visual)(*(None if part is None else part.clone() for part in self.visual))


class DecoderGraph:
    """A decoder pass of B streams over a padded number of new tokens, N of them visual, with one row read out a stream."""

    @classmethod
    def of(cls, forward, batch):
        """The graph for a batch, or None: shapes that come once, and passes that are not one stream's frame with one decision."""
        streams, tokens = len(batch.counts), len(batch.ids)
        if streams > 1 or len(batch.rows) != 1 or not batch.features:
            return None
        padded = -(-tokens // ROUND) * ROUND
        key = (streams, padded, padded, len(batch.visual_rows))
        return forward.graphs.get(key, lambda: cls(forward, batch, *key))

    def __init__(self, forward, batch, streams, padded, longest, visual):
        pages = most_pages(forward.max_tokens)
        device = forward.device
        sizes = {"ids": padded, "positions": 3 * padded, "slots": padded, "visual_rows": visual, "rows": streams}
        self.wide = Staging(sizes, torch.long, device)
        sizes = {"table": streams * pages, "lengths": streams, "holes": 2 * streams, "query_start": streams + 1}
        self.narrow = Staging(sizes, torch.int32, device)
        self.streams, self.padded, self.pages = streams, padded, pages
        example = batch.features[0] if batch.features else None
        self.features = example and example.tokens.new_empty(visual, example.tokens.shape[1])
        deep = example.deepstack if example else None
        self.deepstack = None if deep is None else deep.new_empty(deep.shape[0], visual, deep.shape[2])
        self.stage(batch)
        self.wide.device["slots"].fill_(-1)  # captured without writing
        wide, narrow = self.wide.device, self.narrow.device

        def run():
            table, holes = narrow["table"].view(streams, pages), narrow["holes"].view(streams, 2)
            positions = wide["positions"].view(3, padded)
            plan = Plan(forward.rope, positions, wide["slots"], table, narrow["lengths"], holes, narrow["query_start"], longest)
            return forward.compute(wide["ids"], wide["visual_rows"], self.features, self.deepstack, plan, wide["rows"])

        self.graph, self.hidden = forward.graphs.capture(run)

    def __call__(self, batch):
        """Hidden rows (R, h) of a batch of this shape; the tensor is the caller's own."""
        self.stage(batch)
        self.graph.replay()
        return self.hidden.clone()

    def stage(self, batch):
        """Send the contents of a batch to where the graph reads them."""
        pad = self.padded - len(batch.ids)
        positions = torch.nn.functional.pad(batch.positions, (0, pad))
        slots = torch.nn.functional.pad(batch.slots, (0, pad), value=-1)
        ids = torch.tensor(batch.ids + [0] * pad)
        rows = torch.tensor(batch.rows)
        self.wide.send(ids, positions.flatten(), slots, torch.tensor(batch.visual_rows, dtype=torch.long), rows)
        contents = (batch.block_table(self.pages), batch.lengths, batch.holes, batch.query_start)
        self.narrow.send(*(torch.tensor(values, dtype=torch.int32).flatten() for values in contents))
        begin = 0
        for frame in batch.features:
            end = begin + frame.count
            self.features[begin:end] = frame.tokens
            if self.deepstack is not None:
                self.deepstack[:, begin:end] = frame.deepstack
            begin = end


class Staging:
    """Small integers on their way to a graph: one pinned buffer, one copy, named views on the device."""

    def __init__(self, sizes, dtype, device):
        self.host = torch.empty(sum(sizes.values()), dtype=dtype, pin_memory=True)
        self.buffer = torch.empty(self.host.shape, dtype=dtype, device=device)
        self.device = dict(zip(sizes, self.buffer.split(list(sizes.values()))))
        self.sent = torch.cuda.Event()

    def send(self, *parts):
        """Copy the parts, in the order of the names. Waits only for its own previous copy."""
        self.sent.synchronize()
        torch.cat(parts, out=self.host)
        self.buffer.copy_(self.host, non_blocking=True)
        self.sent.record()
