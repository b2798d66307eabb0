"""Many frames of one stream in few passes: append several turns as if all were silent, read the gate at each, keep up to the first reply.

Where a silent turn leaves its whole prompt in the context, the turns lie one behind the other in one chunk, each decision a row of it.
Otherwise (history "replies", or a prompt that is partly taken back) the user turns alone form the chunk, and the decisions are read on
forks cut back to each turn's end, all in one batch. A pass never evicts: when the window is full the next turn is stepped, which makes
room.
"""

from dataclasses import replace
from itertools import accumulate

from .forward import Chunk
from .step import Step, Stopwatch
from .stream import keeping
from .turn import decide, reply_and_close, run_turns

ENCODE_AT_ONCE = 16  # frames
PASS_TOKENS = 1152  # 4 frames of 16 x 16 visual tokens with what stands round them: the frames behind one that speaks are lost


def scan(engine, stream, frames, times, force=None):
    """Steps of all frames; see `Engine.scan`."""
    steps, encoded = [], []
    while len(steps) < len(frames):
        watch = Stopwatch(engine.device)
        with keeping([stream]):
            if not encoded:
                block = frames[len(steps) : len(steps) + ENCODE_AT_ONCE]
                encoded = engine._encode(block, [stream] * len(block), watch)
            ahead = times[len(steps) : len(steps) + len(encoded)]
            turns = lay_out(engine, stream, encoded, ahead)
            if len(turns) < 2:
                steps += run_turns(engine, [stream], encoded[:1], ahead[:1], [force], watch)
                encoded = encoded[1:]
                continue
            done = run_pass(engine, stream, turns, encoded, ahead, force, watch)
        steps += done
        encoded = encoded[len(done) :]
    return steps


def lay_out(engine, stream, encoded, times):
    """Pieces of the next turns as if each before were silent, as many as fit without eviction: passes of about PASS_TOKENS at most, of
    one size. The stream stays as it is."""
    dialogue, table = engine.dialogue, stream.context.table
    room = engine.max_tokens - table.live - len(dialogue.prompt)
    passes = -(-sum(frame.count + len(dialogue.prompt) for frame in encoded) // PASS_TOKENS)
    most = -(-len(encoded) // passes)
    if not dialogue.inline:
        most = min(most, engine.cache.free // 2)
    before = stream.index, stream.pending, stream.query
    turns, used = [], 0
    for frame, time in zip(encoded[:most], times):
        pieces = dialogue.user_turn(stream, frame, time)
        if dialogue.inline:
            pieces.append(dialogue.probe(stream))
        used += sum(len(piece.ids) for piece in pieces)
        if used > room:
            break
        turns.append(pieces)
        stream.index, stream.query = stream.index + 1, None
        stream.pending = dialogue.between
        used += len(stream.pending)
    stream.index, stream.pending, stream.query = before
    return turns


def run_pass(engine, stream, turns, encoded, times, force, watch):
    """Append the laid out turns, decide, keep them up to the first that speaks; returns their Steps."""
    first, refractory = stream.index, stream.refractory
    lengths = [sum(len(piece.ids) for piece in pieces) for pieces in turns]
    ends = list(accumulate(lengths))
    rows = [end - 1 for end in ends] if engine.dialogue.inline else []
    hidden = engine.forward([stream.context], [Chunk([piece for pieces in turns for piece in pieces], encoded[: len(turns)], rows)])
    forks = []
    try:
        if not engine.dialogue.inline:
            forks, hidden = probe(engine, stream, first, ends)
        watch.lap("prefill")
        resting = [max(0, refractory - index) for index in range(len(turns))]
        speak, probability = decide(engine, hidden, encoded[: len(turns)], resting, watch)
        logits = engine.forward.logits(hidden) if stream.logits else None
        speak = [wants and force is None for wants in speak]
        last = speak.index(True) if any(speak) else len(turns) - 1
        if forks:
            stream.context, forks[last] = forks[last], stream.context
        else:
            stream.context.truncate(ends[-1] - ends[last])
    finally:
        for fork in forks:
            fork.close()
    stream.index, stream.refractory = first + last, max(0, refractory - last)
    engine.dialogue.shown(stream)
    text, tokens = reply_and_close(engine, stream, speak[last], hidden[last : last + 1])
    stream.index += 1
    watch.lap("reply")
    latency = watch.latency(share=last + 1)
    steps = []
    for index, time in enumerate(times[: last + 1]):
        seen = float(first + index if time is None else time)
        full = logits[index] if stream.logits else None
        steps.append(Step(first + index, seen, speak[index], probability[index], None, 0, full, latency))
    steps[-1] = replace(steps[-1], text=text, tokens=tokens)
    return steps


def probe(engine, stream, first, ends):
    """Forks of the stream cut back to the end of each user turn, with the generation prompt appended: (contexts, hidden rows)."""
    forks = []
    try:
        for end in ends:
            fork = stream.context.fork()
            forks.append(fork)
            fork.truncate(ends[-1] - end)
        prompts = []
        for index in range(len(ends)):
            piece = replace(engine.dialogue.probe(stream), turn=first + index)
            prompts.append(Chunk([piece], [], [len(piece.ids) - 1]))
        return forks, engine.forward(forks, prompts)
    except BaseException:
        for fork in forks:
            fork.close()
        raise
