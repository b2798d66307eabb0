"""Conversations become tensors: token ids, three-axis positions, what is to be learned, and the sprites the frames are painted from."""

import gc
import random
from dataclasses import dataclass, fields

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.utils.data import IterableDataset

from .corpus import FRAME, Conversation, conversation
from .render import SPRITE

GRID = 4  # visual tokens along each side of a frame
PATCHES = GRID * GRID
BUDGET = {1: 4, 2: 5, 4: 8}  # exchanges a conversation by its number of frames; longer ones hold twelve
SORTED = 4  # batches drawn together and sorted by length


@dataclass
class Batch:
    """`ids`, `positions` int64 `(B, L)` and `(3, B, L)`; `visual` int64 `(B, F*16)`: where the frames' tokens stand.

    `branch` int64 `(B, L)`: a token sees the tokens before it in branch 0 and in its own branch.
    `where`, `target` int64 `(M,)`: flat places in `(B, L)` whose next token is learned, and that token. Frames are painted from
    `sprites (B*F, N, 10)`, `backdrop (B*F, 10)`, `camera (B*F, 3)`, `noise (B*F,)`, float32.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    visual: torch.Tensor
    branch: torch.Tensor
    where: torch.Tensor
    target: torch.Tensor
    sprites: torch.Tensor
    backdrop: torch.Tensor
    camera: torch.Tensor
    noise: torch.Tensor

    def to(self, device):
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


class Collator:
    """Turns conversations with the same number of frames into a `Batch`."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer, self._known = tokenizer, {}
        names = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|endoftext|>")
        start, image, end, self.pad = map(tokenizer.token_to_id, names)
        self._frame = [start, *[image] * PATCHES, end]

    def tokens(self, talk: Conversation):
        """Ids, branches, learned mask (each of length L) and frame starts of one conversation."""
        ids, branches, learned, starts = [], [], [], []
        for piece in talk.pieces:
            if piece is FRAME:
                starts.append(len(ids) + 1)
                new, learn, branch = self._frame, False, 0
            else:
                text, learn, branch = piece
                new = self._encode(text)
            ids += new
            learned += [learn] * len(new)
            branches += [branch] * len(new)
        return ids, branches, learned, starts

    def __call__(self, talks: list[Conversation]) -> Batch:
        return self.join(talks, [self.tokens(t) for t in talks])

    def join(self, talks: list[Conversation], rows: list[tuple]) -> Batch:
        """The batch of `talks` whose `tokens` are `rows`."""
        length = -(-max(len(r[0]) for r in rows) // 32) * 32
        ids = np.full((len(rows), length), self.pad, np.int64)
        positions = np.zeros((3, len(rows), length), np.int64)
        visual = np.zeros((len(rows), len(rows[0][3]) * PATCHES), np.int64)
        branch = np.zeros_like(ids)
        where, target = [], []
        for i, (row, branches, learned, starts) in enumerate(rows):
            ids[i, : len(row)] = row
            branch[i, : len(row)] = branches
            positions[:, i, : len(row)] = three_axis_positions(branches, starts)
            visual[i] = np.concatenate([np.arange(s, s + PATCHES) for s in starts])
            answers = np.flatnonzero(learned)
            where.append(i * length + answers - 1)
            target.append(ids[i, answers])
        pictures = [_pictures(t) for t in talks]
        most = max(p[0].shape[1] for p in pictures)
        sprites = [np.pad(p[0], ((0, 0), (0, most - p[0].shape[1]), (0, 0)), constant_values=0.0) for p in pictures]
        for s, p in zip(sprites, pictures):
            s[:, p[0].shape[1] :, 3:5] = 1.0  # an absent sprite must not have size 0
        arrays = [ids, positions, visual, branch, np.concatenate(where), np.concatenate(target), np.concatenate(sprites)]
        arrays += [np.concatenate([p[k] for p in pictures]) for k in (1, 2, 3)]
        return Batch(*map(torch.from_numpy, arrays))

    def _encode(self, text):
        if text not in self._known:
            if len(self._known) > 50_000:
                self._known.clear()
            self._known[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return self._known[text]


def three_axis_positions(branches: list[int], starts: list[int]) -> np.ndarray:
    """int64 `(3, L)`: text counts on, a frame's tokens stand at (p, p + row, p + column), and text goes on at p + 4.

    A branch counts from where branch 0 stood, and branch 0 goes on from there as if the branch were not.
    """
    branches = np.asarray(branches)
    length = np.ones(len(branches), np.int64)
    for start in starts:  # a frame is GRID long, whatever its tokens: the first carries it all
        length[start : start + PATCHES] = 0
        length[start] = GRID
    main = np.cumsum(np.where(branches == 0, length, 0))
    place = np.where(branches == 0, main - length, main)
    for number in np.unique(branches[branches > 0]):
        own = np.flatnonzero(branches == number)
        place[own] += np.arange(len(own))
    out = np.repeat(place[None], 3, 0)
    row, column = np.divmod(np.arange(PATCHES), GRID)
    for start in starts:
        out[:, start : start + PATCHES] = place[start] + np.stack([row * 0, row, column])
    return out


def _pictures(talk):
    scene, times = talk.scene, talk.times
    sprites = scene.sprites(times)
    assert sprites.shape[-1] == len(SPRITE)
    return sprites, np.repeat(scene.backdrop[None], len(times), 0), scene.camera(times), np.full(len(times), scene.noise, np.float32)


class CorpusBatches(IterableDataset):
    """Endless training batches of about `tokens` tokens each; every worker draws its own.

    `frame_counts`: how many frames a batch's conversations may have, drawn with `weights`.
    """

    def __init__(self, tokenizer_json: str, tokens: int, frame_counts, weights, seed: int):
        self.tokenizer_json, self.tokens, self.seed = tokenizer_json, tokens, seed
        self.frame_counts, self.weights = frame_counts, weights

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        rng = random.Random(f"corpus {self.seed} {worker.id if worker else 0}")
        collate = Collator(Tokenizer.from_str(self.tokenizer_json))
        if worker:
            gc.disable()  # conversations hold no cycles, and looking for them took a third of the time
        while True:
            frames = rng.choices(self.frame_counts, self.weights)[0]
            budget = BUDGET.get(frames, 12)
            wanted, talks = max(self.tokens // (20 * frames + 25 * budget + 20), 2), []
            while len(talks) < SORTED * wanted:
                talk = conversation(rng, "train", frames, budget=budget)
                if len(talk.times) == frames:
                    talks.append((talk, collate.tokens(talk)))
            talks.sort(key=lambda pair: len(pair[1][0]))  # conversations of like length go together, so little is padding
            parts = [talks[i : i + wanted] for i in range(0, len(talks), wanted)]
            rng.shuffle(parts)
            for part in parts:
                yield collate.join(*map(list, zip(*part)))
