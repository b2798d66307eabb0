"""One pass of the decoder over new tokens of several streams: reserve slots, embed, place visual tokens, run."""

from dataclasses import dataclass

import torch

from ..kernels.gate import decision_logits, gate
from .errors import NumericsError
from .eviction import make_room
from .plan import Plan


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
        self.device = cache.keys.device

    def __call__(self, contexts, chunks):
        """Append one chunk to each context and return the hidden rows asked for, (R, h) in chunk order, before the final norm.

        Raises OutOfPages or TextTooLong; the caller rolls the contexts back.
        """
        slots, positions, tables, lengths, holes = [], [], [], [], []
        for context, chunk in zip(contexts, chunks):
            make_room(context, chunk.tokens, chunk.pieces[-1].turn, self.max_tokens, self.rope)
            where, at = context.append(chunk.pieces)
            slots.append(where)
            positions.append(at)
        for context in contexts:
            tables.append(context.table.pages)
            lengths.append(context.table.length)
            holes.append(context.table.hole)
        counts = [chunk.tokens for chunk in chunks]
        plan = Plan(self.device, self.rope, torch.cat(positions, dim=1), torch.cat(slots), tables, lengths, holes, counts)
        hidden, visual_rows, deepstack = self.embed(chunks)
        hidden = self.decoder(hidden, self.cache, plan, visual_rows, deepstack)
        rows = [begin + row for begin, chunk in zip(plan.host_query_start, chunks) for row in chunk.rows]
        return hidden[torch.tensor(rows, dtype=torch.long, device=self.device)]

    def embed(self, chunks):
        """Token embeddings with visual tokens in place: ((T, h), visual rows (N,) or None, deepstack (S, N, h) or None)."""
        ids, rows, begin = [], [], 0
        for chunk in chunks:
            for piece in chunk.pieces:
                ids += piece.ids
                if piece.visual is not None:
                    rows.append(torch.arange(begin + piece.visual[0], begin + piece.visual[1]))
                begin += len(piece.ids)
        hidden = self.decoder.embed(torch.tensor(ids, device=self.device))
        features = [frame for chunk in chunks for frame in chunk.features]
        if not features:
            return hidden, None, None
        visual_rows = torch.cat(rows).to(self.device)
        hidden[visual_rows] = torch.cat([frame.tokens for frame in features]).to(hidden.dtype)
        deepstack = None
        if features[0].deepstack is not None:
            deepstack = torch.cat([frame.deepstack for frame in features], dim=1).to(hidden.dtype)
        return hidden, visual_rows, deepstack

    def logits(self, rows):
        """Full next-token logits of hidden rows (R, h): (R, V) float32."""
        return decision_logits(rows, self.decoder.norm.weight, self.decoder.config.rms_eps, self.decoder.head)

    def decide(self, rows, rule, silence, marker):
        """The gate on hidden rows (R, h): (speak, probability), host lists. Raises NumericsError on NaN or Inf."""
        norm, eps = self.decoder.norm.weight, self.decoder.config.rms_eps
        speak, probability = gate(rows, norm, eps, self.decoder.head, silence, marker, rule.mode, rule.threshold)
        speak, probability = speak.tolist(), probability.tolist()
        bad = [index for index, value in enumerate(probability) if value != value]
        if bad:
            raise NumericsError(f"the decoder gave NaN or Inf at decision {bad[0]} of this call; nothing was kept of it")
        return speak, probability
