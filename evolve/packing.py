"""Several training sequences on one packed row: what the decoder gets, and the weight of every learned token."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask

from .sequences import REPLY, REST, SILENCE, visibility


@dataclass
class Row:
    """One packed row of L tokens, the last `padding` of which belong to no sequence, on one device: the arguments of `TunableDecoder`, and
    for each of the R learned tokens its id and kind (SILENCE, REPLY or REST), both (R,) int64."""

    ids: torch.Tensor
    positions: torch.Tensor
    visual: torch.Tensor
    features: torch.Tensor
    deepstack: torch.Tensor | None
    mask: object
    rows: torch.Tensor
    target: torch.Tensor
    kind: torch.Tensor
    padding: int

    def arguments(self):
        return self.ids, self.positions, self.visual, self.features, self.deepstack, self.mask, self.rows


def group(lengths, most):
    """Places 0…N-1 in groups of at most `most` tokens together, longest first; a longer sequence has a row of its own."""
    rows = []
    for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = next((row for row in rows if row[0] + lengths[place] <= most), None)
        if fitting is None:
            rows.append([lengths[place], [place]])
        else:
            fitting[0] += lengths[place]
            fitting[1].append(place)
    return [places for _, places in rows]


def pack(sequences, features, device, multiple=1, blocks=False):
    """A `Row` of the sequences, padded to a multiple of so many tokens.

    features: for each (tokens (V, h), deepstack (S, V, h) or None) of its frames; blocks: whether a mask, where the row needs one, is a
    BlockMask and not (L, L) bool.
    """
    starts = [0]
    for each in sequences:
        starts.append(starts[-1] + len(each))
    padding = -starts[-1] % multiple
    learned = torch.cat([each.learned for each in sequences])
    branch = F.pad(torch.cat([each.branch for each in sequences]), (0, padding))
    ids = F.pad(torch.cat([each.ids for each in sequences]), (0, padding))
    row = torch.repeat_interleave(torch.arange(len(sequences)), torch.tensor([len(each) for each in sequences]))
    row = F.pad(row, (0, padding), value=-1)
    places = learned.nonzero()[:, 0]
    plain = len(sequences) == 1 and not bool(branch.any())  # padding is behind everything
    deep = [each for _, each in features]
    device = torch.device(device)

    def put(tensor):
        # From pinned memory, or every copy would wait until the GPU is through with the row before.
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

    return Row(
        ids=put(ids),
        positions=put(F.pad(torch.cat([each.positions for each in sequences], dim=1), (0, padding))),
        visual=put(torch.cat([each.visual + start for each, start in zip(sequences, starts)])),
        features=put(torch.cat([tokens for tokens, _ in features])),
        deepstack=None if deep[0] is None else put(torch.cat(deep, dim=1)),
        mask=None if plain else make_mask(put(branch), put(row), blocks),
        rows=put(places - 1),
        target=put(ids[places]),
        kind=put(learned[places].long()),
        padding=padding,
    )


def make_mask(branch, row, blocks):
    """What `visibility` says of a row of L tokens: a BlockMask, or (L, L) bool."""
    sees, places = visibility(branch, row), torch.arange(len(row), device=row.device)
    if blocks:
        return create_block_mask(sees, None, None, len(row), len(row), device=row.device)
    return sees(None, None, places[:, None], places[None])


def token_weights(balance, kind, logits, target, shares):
    """Weight of every learned token (R,), by which its cross-entropy is multiplied.

    balance: "none" (all 1: the paper), "inverse" (first tokens of silent and spoken turns by the inverse of their share), "focal" (first
    tokens by (1 - p)^2, Lin et al. 2017). shares: {SILENCE: share of silent turns, REPLY: share of spoken turns} of the training set.
    """
    weight = torch.ones(len(kind), device=logits.device)
    if balance == "inverse":
        for first in (SILENCE, REPLY):
            weight[kind == first] = 0.5 / max(shares[first], 1e-6)
    elif balance == "focal":
        sure = logits.detach().log_softmax(-1).gather(1, target[:, None])[:, 0].exp()
        weight = torch.where(kind == REST, weight, (1 - sure) ** 2)
    return weight
