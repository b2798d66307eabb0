"""Questions beside a stream: answered from what it has seen, on a fork, so that they leave no trace in it. Many streams, one batch."""

from contextlib import contextmanager
from itertools import islice

import torch

from .context import Piece
from .errors import ArgumentError
from .forward import Chunk, read
from .reply import Reply, begin, finish

AT_ONCE = 32  # forks in one batch
REPLIES_AT_ONCE = 4  # forks that read a whole reply: there are logits for each of its tokens


def as_lists(engine, stream, prompt):
    """Streams and their prompts as two lists, each checked. Raises ArgumentError, StreamClosed, EngineBusy, TextTooLong."""
    streams, prompts = (stream, prompt) if isinstance(stream, list) else ([stream], [prompt])
    if not isinstance(prompts, list) or len(streams) != len(prompts):
        raise ArgumentError("a list of streams needs a list with a prompt for each")
    for each, text in zip(streams, prompts):
        engine._own(each)._check()
        engine._check_text(each, text)
    return streams, prompts


def in_batches(engine, streams, prompts, work):
    """work(forks, rows) on forks that have read their prompt, AT_ONCE of them at a time; the lists it returns, joined."""
    results = []
    for first in range(0, len(streams), AT_ONCE):
        with asked(engine, streams[first : first + AT_ONCE], prompts[first : first + AT_ONCE]) as (forks, rows):
            results += work(forks, rows)
    return results


@contextmanager
def asked(engine, streams, prompts, answers=None):
    """(forks of the streams that have read their prompt, hidden rows (R, h)): one row a fork, which foretells the first token of its
    answer; where `answers` are given, lists of ids, a row for each of their tokens."""
    forks = []
    try:
        chunks = []
        for stream, prompt, answer in zip(streams, prompts, answers or [(None,)] * len(streams)):
            fork = stream.fork()
            forks.append(fork)
            ids = (*fork.pending, *engine.dialogue.turn.text_turn(prompt), *engine.dialogue.prompt)
            # The row in front of a token foretells it, so nothing needs to read the last one.
            rows = range(len(ids) - 1, len(ids) - 1 + len(answer))
            chunks.append(Chunk([Piece("text", stream.index, (*ids, *answer[:-1]))], [], list(rows)))
        yield forks, engine.forward([fork.context for fork in forks], chunks)
    finally:
        for fork in forks:
            fork.close()


def choose(engine, streams, prompts, choices):
    """Probability of each of the choices as the answer's first token, among them: a list of len(choices) floats a stream."""
    turn = engine.dialogue.turn
    ids = [turn.encode(choice)[:1] for choice in choices]
    if len(choices) < 2 or [] in ids or len({first for (first,) in ids}) < len(ids):
        raise ArgumentError(f"choices are two or more words that begin with different tokens, not {choices!r}")
    columns = torch.tensor(ids, device=engine.device)[:, 0]

    def work(forks, rows):
        (shares,) = read(engine.forward.logits(rows)[:, columns].softmax(-1))
        return shares

    return in_batches(engine, streams, prompts, work)


def likelihoods(engine, stream, prompt, replies):
    """See `Engine.likelihoods`."""
    told, pairs = [engine.dialogue.turn.encode(reply) for reply in replies], []
    for first in range(0, len(told), REPLIES_AT_ONCE):
        batch = told[first : first + REPLIES_AT_ONCE]
        with asked(engine, [stream] * len(batch), [prompt] * len(batch), batch) as (_, rows):
            scores = engine.forward.logits(rows).log_softmax(-1)
            said = torch.tensor([token for ids in batch for token in ids], device=engine.device)
            losses, likeliest = (iter(values) for values in read(-scores.gather(1, said[:, None])[:, 0], scores.argmax(-1) == said))
        for ids in batch:
            loss, greedy = list(islice(losses, len(ids))), list(islice(likeliest, len(ids)))
            pairs.append((sum(loss) / len(ids), all(greedy)))
    return pairs


def generate(engine, streams, prompts, max_tokens, temperature, seed):
    """The text of each answer: the most likely words at temperature 0, else sampled, the same for the same seed and streams."""
    turn, generator = engine.dialogue.turn, None
    if temperature:
        generator = torch.Generator(engine.device).manual_seed(seed)

    def work(forks, rows):
        replies = [Reply(fork.context, fork.index, (), turn.end_ids, max_tokens) for fork in forks]
        pick = sampler(temperature, generator) if temperature else None
        begin(engine.forward, replies, rows, turn.end_ids, pick)
        finish(engine.forward, replies, pick)
        return [turn.decode(reply.ids) for reply in replies]

    return in_batches(engine, streams, prompts, work)


def sampler(temperature, generator):
    """pick(logits (R, V)) -> ids (R,) int64, drawn from softmax(logits / temperature)."""

    def pick(logits):
        return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]

    return pick
