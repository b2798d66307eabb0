"""One live conversation: a query, the frames it has seen, and what waits to ride with the next frame."""

from .errors import StreamClosed


class Stream:
    """Made by `Engine.open`; closing it (or leaving its `with` block) gives its pages back.

    `context` is what the cache holds. `pending` ids ride in front of the next frame's chunk: the silence word, or the end of a reply.
    `query` rides with the next frame. `size` is what the model sees, set by the first frame.
    """

    def __init__(self, engine, context, query=None, logits=False):
        self.engine, self.context, self.query, self.logits = engine, context, query, logits
        self.index, self.refractory, self.pending, self.size, self.closed = 0, 0, (), None, False

    def ask(self, text):
        """Ask something: rides with the next frame. Two questions before one frame ride together, a line each."""
        self._check()
        self.engine._check_text(self, text)
        self.query = text if self.query is None else f"{self.query}\n{text}"

    def fork(self):
        """A second stream that has seen the same; pages are shared and copied when written."""
        self._check()
        with self.engine._exclusive():
            other = Stream(self.engine, self.context.fork(), self.query, self.logits)
            other.index, other.refractory, other.pending, other.size = self.index, self.refractory, self.pending, self.size
            self.engine._streams.add(other)
            return other

    def close(self):
        """Give the pages back. Closing twice does nothing."""
        if self.closed:
            return
        with self.engine._exclusive():
            self.closed = True
            self.context.close()
            self.engine._streams.discard(self)

    def _check(self):
        if self.closed:
            raise StreamClosed("this stream is closed; open another with engine.open()")

    def _save(self):
        self.context.begin()
        return self.query, self.index, self.refractory, self.pending, self.size

    def _restore(self, saved):
        self.context.rollback()
        self.query, self.index, self.refractory, self.pending, self.size = saved

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
