"""Many frames of one stream in few passes: append several turns as if all were silent, read the gate at each, keep up to the first reply.

`Pace` says how many. Where a silent turn leaves its whole prompt in the context, the turns lie one behind the other in one chunk, each
decision a row of it. Otherwise (history "replies", or a prompt that is partly taken back) the user turns alone form the chunk, and the
decisions are read on forks cut back to each turn's end, all in one batch. A pass never evicts: when the window is full the next turn is
stepped, which makes room.
"""

from dataclasses import replace
from itertools import accumulate

from .forward import Chunk
from .step import Step, Stopwatch
from .stream import keeping
from .turn import decide, reply_and_close, run_turns

ENCODE_AT_ONCE = 16  # frames
PASS_TOKENS, PASS_FRAMES = 4608, 32  # of a pass at most: 16 frames of 16 x 16 visual tokens with what stands round them; more wins nothing
PASS_COST = 96  # tokens that take as long as what a pass costs besides its tokens: 2.4 ms of Qwen2.5-VL-7B on an H200
MEMORY = 64  # turns: how lately is "lately"


class Pace:
    """How many frames a pass takes, from how often the stream spoke lately.

    Frames behind one that speaks are lost. Where a turn speaks with probability p, a pass of F frames keeps k = (1 - (1 - p)^F) / p of them
    and costs F + c frames. k / (F + c) grows with F as long as the next frame's chance to be kept, (1 - p)^F, is above it: about up to
    F = sqrt(2 c / p). So passes grow while the stream is silent, and shrink when it speaks. Turns that rest are kept for certain.
    """

    def __init__(self, free):
        self.spoke, self.turns, self.free = 0.4, 4.0, free  # as if one turn in ten spoke, until the stream says otherwise

    def frames(self, resting, tokens, passes):
        """The best number of frames of `tokens` each, for a pass that runs the decoder `passes` times, behind `resting` turns of rest.

        Beyond those it is one of 1, 2, 3, 4, 6, 8, 12, ..., for few shapes of passes are captured.
        """
        most, silence = max(1, min(PASS_FRAMES, PASS_TOKENS // tokens)), 1 - self.free * self.spoke / self.turns
        kept, spent, chance, count = 0.0, passes * PASS_COST / tokens, 1.0, 0
        while count < most and chance * spent > kept:
            kept, spent, count = kept + chance, spent + 1, count + 1
            chance *= silence if count > resting else 1.0
        beyond = max(1, count - resting)
        power = 1 << beyond.bit_length() - 1
        return min(count, resting + (power * 3 // 2 if power > 1 and power * 3 // 2 <= beyond else power))

    def saw(self, steps, resting):
        """What came of a pass; its first `resting` turns say nothing."""
        for step in steps[resting:]:
            self.spoke, self.turns = (old * (1 - 1 / MEMORY) + new for old, new in ((self.spoke, step.speak), (self.turns, 1)))


def scan(engine, stream, frames, times, force=None):
    """Steps of all frames; see `Engine.scan`."""
    steps, encoded, pace = [], [], Pace(force is None)
    passes = 1 if engine.dialogue.inline else 2
    while len(steps) < len(frames):
        watch, resting = Stopwatch(engine.device), stream.refractory
        with keeping([stream]):
            look_ahead(engine, stream, frames, len(steps), encoded, 1, watch)
            wanted = pace.frames(resting, encoded[0].count + len(engine.dialogue.prompt), passes)
            look_ahead(engine, stream, frames, len(steps), encoded, wanted, watch)
            ahead = times[len(steps) : len(steps) + wanted]
            turns = lay_out(engine, stream, encoded[:wanted], ahead)
            if len(turns) < 2:
                done = run_turns(engine, [stream], encoded[:1], ahead[:1], [force], watch)
            else:
                done = run_pass(engine, stream, turns, encoded, ahead, force, watch)
        steps += done
        pace.saw(done, resting)
        del encoded[: len(done)]
    return steps


def look_ahead(engine, stream, frames, seen, encoded, wanted, watch):
    """Bring `wanted` of the frames behind the first `seen` into `encoded`, or all that are left, by whole blocks."""
    while len(encoded) < min(wanted, len(frames) - seen):
        begin = seen + len(encoded)
        block = frames[begin : begin + ENCODE_AT_ONCE]
        encoded += engine._encode(block, [stream] * len(block), watch)


def lay_out(engine, stream, encoded, times):
    """Pieces of the next turns as if each before were silent, as many as fit without eviction. The stream stays as it is."""
    dialogue, table = engine.dialogue, stream.context.table
    room = engine.max_tokens - table.live - len(dialogue.prompt)
    most = len(encoded) if dialogue.inline else min(len(encoded), engine.cache.free // 2)
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
