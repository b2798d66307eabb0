"""One pass of the decoder over new tokens of several streams: reserve slots, embed, place visual tokens, run."""

from dataclasses import dataclass

import torch

from ..kernels.gate import project
from ..kernels.norm import norm
from .errors import NumericsError
from .eviction import make_room
from .graphs import DecoderGraph, Graphs, capturable, weights_of
from .plan import Batch, Plan, send


@dataclass
class Chunk:
    """New tokens of one stream: pieces, the visual features of its frames in order, and the rows (token offsets) to read decisions at."""

    pieces: list
    features: list
    rows: list

    @property
    def tokens(self):
        """Number of new tokens."""
        return sum(len(piece.ids) for piece in self.pieces)


class Forward:
    """Runs chunks through a model; holds what is the same for every pass."""

    def __init__(self, model, cache, rope, max_tokens):
        self.decoder, self.cache, self.rope, self.max_tokens = model.decoder, cache, rope, max_tokens
        self.device, self.weights = cache.keys.device, weights_of(model.decoder.layers)
        self.graphs = Graphs(self.device) if capturable(cache.keys) else None

    def __call__(self, contexts, chunks):
        """Append one chunk to each context and return the hidden rows asked for, (R, h) in chunk order, before the final norm.

        Raises OutOfPages or TextTooLong; the caller rolls the contexts back.
        """
        return self.through(self.reserve(contexts, chunks))

    def reserve(self, contexts, chunks):
        """Make room, take slots and positions for the chunks: the `Batch` of this pass."""
        slots, positions = [], []
        for context, chunk in zip(contexts, chunks):
            make_room(context, chunk.tokens, chunk.pieces[-1].turn, self.max_tokens, self.rope)
            where, at = context.append(chunk.pieces)
            slots.append(where)
            positions.append(at)
        ids, visual_rows, rows = [], [], []
        for chunk in chunks:
            rows += [len(ids) + row for row in chunk.rows]
            for piece in chunk.pieces:
                if piece.visual is not None:
                    visual_rows += range(len(ids) + piece.visual[0], len(ids) + piece.visual[1])
                ids += piece.ids
        return Batch(
            ids, torch.cat(positions, dim=1), torch.cat(slots),
            [context.table.pages for context in contexts], [context.table.length for context in contexts],
            [context.table.hole for context in contexts], [chunk.tokens for chunk in chunks], visual_rows, rows,
            [frame for chunk in chunks for frame in chunk.features],
        )  # fmt: skip

    def through(self, batch):
        """Hidden rows (R, h) of a batch, by its graph if it has one."""
        graph = DecoderGraph.of(self, batch)
        return graph(batch) if graph else self.run(batch)

    def run(self, batch):
        """Run a batch launch by launch: hidden rows (R, h)."""
        contents = (batch.ids, batch.visual_rows, batch.rows)
        ids, visual_rows, rows = (send(torch.tensor(values, dtype=torch.long), self.device) for values in contents)
        features, deepstack = join(batch.features)
        return self.compute(ids, visual_rows, features, deepstack, Plan.of(batch, self.rope, self.device), rows)

    def compute(self, ids, visual_rows, features, deepstack, plan, rows):
        """The pass itself, device tensors only: embed ids (T,), place features (N, h), run the layers, read rows (R,)."""
        hidden = self.decoder.embed(ids)
        if features is not None:
            hidden.index_copy_(0, visual_rows, features.to(hidden.dtype))
        return self.decoder(hidden, self.cache, plan, rows, visual_rows, deepstack)

    def logits(self, rows):
        """Full next-token logits of hidden rows (R, h): (R, V) float32."""
        return project(norm(rows, self.decoder.norm.weight, self.decoder.config.rms_eps)[0], self.decoder.head)


def join(frames):
    """Features of several frames: (tokens (N, h), deepstack (S, N, h)); None where there are none."""
    if not frames:
        return None, None
    deepstack = None if frames[0].deepstack is None else torch.cat([frame.deepstack for frame in frames], dim=1)
    return torch.cat([frame.tokens for frame in frames]), deepstack


def read(*tensors):
    """Small device tensors as lists, with one wait for all of them."""
    if not tensors[0].is_cuda:
        return [tensor.tolist() for tensor in tensors]
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True) for tensor in tensors]
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [copy.tolist() for copy in copies]


def check_probability(probability):
    """Raise NumericsError on NaN among the probabilities of a pass: it must never pass for silence."""
    bad = [index for index, value in enumerate(probability) if value != value]
    if bad:
        raise NumericsError(f"the decoder gave NaN or Inf at decision {bad[0]} of this call; nothing was kept of it")
