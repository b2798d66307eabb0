"""A trajectory as one training sequence: the ids, positions and visibility that the engine's stream would have, and what is learned.

The engine's own `Dialogue` lays out every turn, so training and streaming cannot drift apart. Where a decision leaves something else in the
context than it was taken on (history "replies", or a think block that past turns do not show), the decision stands on a branch: it sees
everything before it and nothing after it sees it.
"""

from collections import namedtuple
from dataclasses import dataclass

import torch

from ..engine.context import Piece, piece_positions

Shown = namedtuple("Shown", "count grid")  # what `Dialogue.user_turn` needs to know of a frame
SILENCE, REPLY, REST = 1, 2, 3  # first token of a silent turn, first of a reply, any further learned token


@dataclass
class Sequence:
    """ids (L,) int64; positions (3, L) int64; branch (L,) int64, 0 for the stream itself; learned (L,) int8: 0, SILENCE, REPLY or REST;
    visual (V,) int64: where the frames' tokens stand, in order."""

    ids: torch.Tensor
    positions: torch.Tensor
    branch: torch.Tensor
    learned: torch.Tensor
    visual: torch.Tensor

    def __len__(self):
        return len(self.ids)


class Rehearsal:
    """Stands in for a `Stream` and its context where there is no cache: collects tokens, positions and branches."""

    def __init__(self, dialogue, spatial):
        self.dialogue, self.spatial = dialogue, spatial
        self.index, self.query, self.pending, self.refractory, self.context = 0, None, (), 0, self
        self.ids, self.positions, self.branch, self.learned, self.visual = [], [], [], [], []
        self.next_position, self.branches, self.ahead = 0, 0, ()

    def add(self, piece, learned=None, branch=0):
        """Append a piece to the stream or, from where the stream is, to a branch."""
        start = self.next_position if not branch else self.branch_position
        where, extent = piece_positions(piece, start, self.spatial)
        if piece.visual is not None:
            self.visual += range(len(self.ids) + piece.visual[0], len(self.ids) + piece.visual[1])
        self.ids += piece.ids
        self.positions.append(where)
        self.branch += [branch] * len(piece.ids)
        self.learned += learned or [0] * len(piece.ids)
        if branch:
            self.branch_position = start + extent
        else:
            self.next_position = start + extent

    def truncate(self, count):
        """`Dialogue` takes back the end of a prompt; `decide` has not put it in the first place."""
        assert count == self.held_back, "a decision takes back what was held back"

    def show(self, shown, query, time):
        """The user turn of a frame, with the query that arrives with it; what was decided before rides in front."""
        self.query = query
        for piece in self.dialogue.user_turn(self, shown, time):
            pending = piece.kind == "text" and piece.turn == self.index - 1
            self.add(piece, list(self.ahead) if pending else None)
        self.dialogue.shown(self)

    def decide(self, reply):
        """The assistant turn: the text of a reply, or None for silence."""
        dialogue = self.dialogue
        said = dialogue.silence if reply is None else dialogue.reply_ids(reply)
        kept = dialogue.prompt[: len(dialogue.prompt) - dialogue.taken_back]
        if reply is None and dialogue.history == "replies":
            kept = ()
        marks = [SILENCE if reply is None else REPLY, *[REST] * len(said)]  # the reply and the marker that ends it
        marks = marks + [0] * (len(said) + len(dialogue.end) - len(marks))
        self.add(Piece("text", self.index, tuple(kept)))
        self.held_back = len(dialogue.prompt) - len(kept)
        if self.held_back:
            self.branches += 1
            self.branch_position = self.next_position
            self.add(Piece("text", self.index, tuple(dialogue.prompt[len(kept) :])), branch=self.branches)
            self.add(Piece("text", self.index, (*said, *dialogue.end)), marks, self.branches)
            marks = [0] * len(marks)
        if reply is None:
            dialogue.silent(self)
        else:
            dialogue.replied(self, said, 0, 0)
        self.ahead = marks
        self.index += 1


def sequence(turns, dialogue, system, grids, spatial, offline=False):
    """The `Sequence` of a trajectory.

    turns: [{"t", "query"?, "reply"}]; dialogue: the `Dialogue` of the checkpoint; system: text of the system turn, None for the family's
    own; grids: for each turn (visual tokens, (rows, columns) of merged patches); spatial: whether positions have three axes; offline:
    whether frames without a reply are shown only, with nothing to decide.
    """
    rehearsal = Rehearsal(dialogue, spatial)
    ids = tuple(dialogue.turn.system(system))
    if ids:
        rehearsal.add(Piece("system", -1, ids))
    for turn, (count, grid) in zip(turns, grids, strict=True):
        rehearsal.show(Shown(count, grid), turn.get("query"), turn["t"])
        if offline and turn["reply"] is None:
            rehearsal.index += 1
        else:
            rehearsal.decide(turn["reply"])
    if rehearsal.pending:  # the last decision has no next turn to ride in
        rehearsal.add(Piece("text", rehearsal.index - 1, tuple(rehearsal.pending)), list(rehearsal.ahead))
    long = [torch.tensor(values, dtype=torch.long) for values in (rehearsal.ids, rehearsal.branch, rehearsal.visual)]
    positions = torch.cat(rehearsal.positions, dim=1)
    return Sequence(long[0], positions, long[1], torch.tensor(rehearsal.learned, dtype=torch.int8), long[2])


def visibility(branch, row):
    """Which tokens see which, as flex attention asks: (batch, head, query, key) -> bool. A token sees those before it in its own row of the
    pack that are of the stream or its branch.

    branch, row (L,) int64: several sequences may stand one behind the other, each with its `row` number.
    """

    def sees(batch, head, query, key):
        return (query >= key) & ((branch[key] == 0) | (branch[query] == branch[key])) & (row[query] == row[key])

    return sees
