"""Chat turns as token ids: what stands round a frame, a text and a reply in one family's format.

Ids equal those of the checkpoint's chat template: text between two markers is tokenized as one string. Text from outside is plain text: a
marker spelled inside it stays letters.
"""

import json
from dataclasses import dataclass

from tokenizers import Tokenizer

from .config import require_file
from .errors import CheckpointError


@dataclass(frozen=True)
class TurnIds:
    """A frame's user turn: head + open + [visual_id] * visual + close + tail."""

    head: list[int]
    open: list[int]
    visual_id: int
    visual: int
    close: list[int]
    tail: list[int]

    @property
    def ids(self):
        return self.head + self.open + [self.visual_id] * self.visual + self.close + self.tail


class Marker(str):
    """A special token of the format, as opposed to plain text."""


START, END, OF_TEXT = Marker("<|im_start|>"), Marker("<|im_end|>"), Marker("<|endoftext|>")


class TurnFormat:
    """Renders turns for one checkpoint directory and its `TurnConfig`.

    timestamps: put the frame's time in front of it, in families that were trained with such text.
    Raises CheckpointError if tokenizer.json is missing, unreadable, or lacks a marker of the family.
    """

    def __init__(self, directory, turn, timestamps=False):
        self.turn, self.timestamps = turn, timestamps
        file = require_file(directory, "tokenizer.json", "the vocabulary")
        try:
            described = json.loads(file.read_text(encoding="utf-8"))
            self.tokenizer = Tokenizer.from_str(json.dumps(described))
            # Without its added tokens the same vocabulary cannot produce a marker, whatever the text spells.
            self.plain = Tokenizer.from_str(json.dumps({**described, "added_tokens": [], "post_processor": None}))
        except Exception as error:  # the library raises bare Exception
            raise CheckpointError(f"{file} cannot be read as a tokenizer ({error}); fetch the file again") from None
        self.visual_id = self.marker(turn.pad)
        self.end_ids = frozenset((self.marker(END), self.marker(OF_TEXT)))
        self.turn_end = self.join(END, "\n")
        self.history_header = self.join(START, "assistant\n")
        self.generation_prompt = self.join(START, "assistant\n", *(Marker(part) if part.strip() else part for part in turn.think))

    def system(self, text=None):
        """The system turn; the family's own text if None, no ids if the family has none."""
        text = self.turn.system if text is None else text
        return [] if text is None else self.join(START, "system\n" + text, END, "\n")

    def frame_turn(self, visual, query=None, time=None):
        """TurnIds of a user turn with one frame of `visual` tokens, after the query's text if there is one."""
        head = "user\n" + (query + self.turn.query_end if query else "")
        if self.timestamps and time is not None and self.turn.timestamp:
            head += self.turn.timestamp.format(time)
        return TurnIds(
            head=self.join(START, head),
            open=self.join(Marker(self.turn.open)),
            visual_id=self.visual_id,
            visual=visual,
            close=self.join(Marker(self.turn.close), self.turn.after),
            tail=self.join(END, "\n"),
        )

    def text_turn(self, text):
        """A user turn without a frame."""
        return self.join(START, "user\n" + text, END, "\n")

    def reply(self, text):
        """A reply as history: text, end of turn, newline."""
        return self.join(text, END, "\n")

    def encode(self, text):
        """Plain text to ids; markers in it stay letters."""
        return self.plain.encode(text, add_special_tokens=False).ids if text else []

    def decode(self, ids):
        """Ids to text, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    def marker(self, token):
        """The id of a special token; CheckpointError if the tokenizer has none."""
        found = self.tokenizer.token_to_id(str(token))
        if found is None:
            raise CheckpointError(f'tokenizer.json has no token "{token}", which this family\'s chat format needs; fetch the matching file')
        return found

    def join(self, *parts):
        """Ids of markers and the texts between them."""
        ids = []
        for part in parts:
            ids += [self.marker(part)] if isinstance(part, Marker) else self.encode(part)
        return ids
