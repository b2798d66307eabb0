"""One live conversation: a query, the frames it has seen, and what waits to ride with the next frame."""

from contextlib import contextmanager

from .errors import EngineBusy, StreamClosed


class Stream:
    """Made by `Engine.open`; closing it (or leaving its `with` block) gives its pages back.

    `context` is what the cache holds. `pending` ids ride in front of the next frame's chunk: the silence word, or the end of a reply.
    `query` rides with the next frame, `asked` with the next one that will be submitted behind frames that still wait. `size` is what the
    model sees, set by the first frame.
    """

    def __init__(self, engine, context, query=None, logits=False):
        self.engine, self.context, self.query, self.logits = engine, context, query, logits
        self.index, self.refractory, self.pending, self.size, self.closed, self.asked = 0, 0, (), None, False, None

    def ask(self, text):
        """Ask something: rides with the next frame stepped or submitted. Two questions before one frame ride together, a line each."""
        self._check_open()
        self.engine._check_text(self, text)
        with self.engine._loop.state:
            if self in self.engine._loop.waiting:
                self.asked = joined(self.asked, text)
            else:
                self.query = joined(self.query, text)

    def fork(self):
        """A second stream that has seen the same; pages are shared and copied when written."""
        with self.engine._exclusive():
            self._check()
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
        self.engine._loop.drop(self)

    def _check(self):
        self._check_open()
        if self in self.engine._loop.waiting:
            raise EngineBusy("this stream has submitted frames under way; wait for the last of their futures, or submit this frame too")

    def _check_open(self):
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


def joined(*texts):
    """Texts on a line each, those that are None left out; None without any."""
    return "\n".join(text for text in texts if text is not None) if any(text is not None for text in texts) else None


@contextmanager
def keeping(streams):
    """Whatever goes wrong inside, Ctrl-C included: the streams are as they were."""
    saved = [stream._save() for stream in streams]
    try:
        yield
    except BaseException:
        for stream, state in zip(streams, saved):
            stream._restore(state)
        raise
