"""A turn, exactly: which tokens stand round a frame, what a decision leaves in the context, what rides with the next frame.

    [what was pending] [user turn: query, frame] [generation prompt]  -> decision
    silent, history "full":     pending = silence word + end of turn        (one frame costs exactly one forward)
    silent, history "replies":  the generation prompt is taken back; only the frame stays
    reply:                      pending = what of the reply and its end is not in the cache yet

A family whose generation prompt is longer than the header of past replies (an empty think block) takes the difference back after each
decision, and the reply with it: past replies are rendered without the block.
"""

from .context import Piece
from .errors import ArgumentError


class Dialogue:
    """Token bookkeeping of turns for one checkpoint: `turn` is its TurnFormat, `streaming` its StreamingFormat."""

    def __init__(self, turn, streaming, history):
        if history not in ("full", "replies"):
            raise ArgumentError(f'history {history!r} is neither "full" nor "replies"')
        self.turn, self.history = turn, history
        self.silence = self.word(streaming.silence)
        self.marker = self.word(streaming.reply_marker) if streaming.reply_marker else ()
        self.prompt = tuple(turn.generation_prompt)
        self.taken_back = len(turn.generation_prompt) - len(turn.history_header)
        self.end = tuple(turn.turn_end)

    @property
    def inline(self):
        """A silent turn leaves its whole generation prompt in the context, so `scan` can lay turns one behind the other."""
        return self.history == "full" and self.taken_back == 0

    @property
    def between(self):
        """Ids between the part of a silent turn that `scan` lays out and the next user turn."""
        if self.history == "replies":
            return ()
        header = self.prompt[: len(self.prompt) - self.taken_back]
        return self.silence + self.end if self.inline else header + self.silence + self.end

    def word(self, text):
        """Ids of a word of the turn format, which may be a token of its own in the vocabulary."""
        token = self.turn.tokenizer.token_to_id(text)
        return tuple(self.turn.encode(text)) if token is None else (token,)

    def user_turn(self, stream, frame, time):
        """Pieces of the turn that shows `frame` (an `EncodedFrame`), with what was pending and the query, without the prompt."""
        ids = self.turn.frame_turn(frame.count, stream.query, time)
        kind = "text" if stream.query is None else "query"
        pieces = [Piece("text", stream.index - 1, stream.pending)] if stream.pending else []
        visual = (len(ids.open), len(ids.open) + frame.count)
        shown = (*ids.open, *[ids.visual_id] * frame.count, *ids.close)
        pieces += [Piece(kind, stream.index, tuple(ids.head)), Piece("frame", stream.index, shown, frame.grid, visual)]
        return [*pieces, Piece(kind, stream.index, tuple(ids.tail))]

    def probe(self, stream):
        """The generation prompt at whose last token the decision is read."""
        return Piece("text", stream.index, self.prompt)

    def shown(self, stream):
        """The user turn is in the context: nothing is pending, the query has been asked."""
        stream.pending, stream.query = (), None

    def silent(self, stream):
        """The decision was silence."""
        if self.history == "replies":
            stream.context.truncate(len(self.prompt))
        else:
            stream.context.truncate(self.taken_back)
            stream.pending = self.silence + self.end
        stream.refractory = max(0, stream.refractory - 1)

    def replied(self, stream, ids, cached, refractory):
        """The decision was the reply `ids` (marker included), of which the first `cached` tokens are in the cache."""
        if self.taken_back:
            stream.context.truncate(self.taken_back + cached)
            cached = 0
        stream.pending = tuple(ids[cached:]) + self.end
        stream.refractory = refractory

    def reply_ids(self, text):
        """Ids of a given reply, marker included."""
        return self.marker + tuple(self.turn.encode(text))
