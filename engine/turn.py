"""One turn of several streams, as one batch: show each a frame, decide, reply, close."""

from dataclasses import dataclass

import torch

from ..kernels.gate import gate
from .forward import Chunk, check_probability, read
from .frames import check_finite, flags
from .plan import send
from .reply import Reply, begin, finish
from .step import Step
from .stream import Stream


@dataclass
class Turn:
    """What one stream decided on its frame; the turn is closed once `reply`, if any, is over. `logits` (V,) float32 or None."""

    stream: Stream
    time: float | None
    force: bool | str | None
    speak: bool
    probability: float
    logits: torch.Tensor | None
    reply: Reply | None


def run_turns(engine, streams, encoded, times, forces, watch):
    """The whole turn of each stream: a list of Steps."""
    turns = begin_turns(engine, streams, encoded, times, forces, watch)
    if replies := [turn.reply for turn in turns if turn.reply]:
        finish(engine.forward, replies)
        watch.lap("reply")
    latency = watch.latency()
    return [end_turn(engine, turn, latency) for turn in turns]


def begin_turns(engine, streams, encoded, times, forces, watch):
    """Show each stream its `EncodedFrame` and decide: a list of Turns, replies one token long. The host waits here."""
    dialogue, chunks = engine.dialogue, []
    for stream, frame, time in zip(streams, encoded, times):
        pieces = [*dialogue.user_turn(stream, frame, time), dialogue.probe(stream)]
        chunks.append(Chunk(pieces, [frame], [sum(len(piece.ids) for piece in pieces) - 1]))
    rows = engine.forward([stream.context for stream in streams], chunks)
    watch.lap("prefill")
    speak, probability = decide(engine, rows, encoded, [stream.refractory for stream in streams], watch)
    logits = engine.forward.logits(rows) if any(stream.logits for stream in streams) else None
    for index, (stream, force) in enumerate(zip(streams, forces)):
        dialogue.shown(stream)
        speak[index] = isinstance(force, str) or (force is None and speak[index])
    logits = [logits[index] if stream.logits else None for index, stream in enumerate(streams)]
    replies = begin_replies(engine, streams, speak, forces, rows)
    return [Turn(*each) for each in zip(streams, times, forces, speak, probability, logits, replies)]


def end_turn(engine, turn, latency):
    """Close a turn whose reply, if any, is over: its Step."""
    stream = turn.stream
    text, tokens = close(engine, stream, turn.speak, turn.force, turn.reply)
    seen = float(stream.index if turn.time is None else turn.time)
    step = Step(stream.index, seen, turn.speak, turn.probability, text, tokens, turn.logits, latency)
    stream.index += 1
    return step


def decide(engine, rows, encoded, resting, watch):
    """The gate on hidden rows (R, h): (speak, probability), lists of R. Raises FrameError, NumericsError.

    resting: turns of enforced silence left at each row, a list of R.
    """
    dialogue, rule, decoder = engine.dialogue, engine.gate, engine.forward.decoder
    tokens = dialogue.silence[0], dialogue.marker[0] if dialogue.marker else None
    resting = send(torch.tensor(resting).clamp(max=2**31 - 1).int(), rows.device) if any(resting) else None
    decision = gate(rows, decoder.norm.weight, decoder.config.rms_eps, decoder.head, *tokens, rule.mode, rule.threshold, resting)
    watch.lap("gate")  # before the wait: between the decision on the host and the Step nothing is asked of the device
    speak, probability, *finite = read(*decision, *flags(encoded))  # the one place where a silent step waits for the device
    check_finite(encoded, finite)
    check_probability(probability)
    return speak, probability


def reply_and_close(engine, stream, speak, row):
    """Close the turn of one stream whose decision was read at hidden row (1, h): (text, generated tokens)."""
    (reply,) = begin_replies(engine, [stream], [speak], [None], row)
    finish(engine.forward, [reply] if reply else [])
    return close(engine, stream, speak, None, reply)


def begin_replies(engine, streams, speak, forces, rows):
    """A Reply, one token long, for each stream that speaks freely; None for the others."""
    dialogue, replies = engine.dialogue, [None] * len(streams)
    free = [index for index, force in enumerate(forces) if speak[index] and force is None]
    for index in free:
        context, turn = streams[index].context, streams[index].index
        replies[index] = Reply(context, turn, dialogue.marker, dialogue.turn.end_ids, engine.max_reply)
    if free:
        # Where the gate overrules the most likely token, the reply still has to say something.
        banned = {dialogue.silence[0], *dialogue.turn.end_ids} if engine.gate.mode == "softmax" else ()
        begin(engine.forward, [replies[index] for index in free], rows[free], banned)
    return replies


def close(engine, stream, speaks, force, reply):
    """Write what a turn leaves behind: (text, generated tokens)."""
    dialogue, refractory = engine.dialogue, engine.gate.refractory
    if not speaks:
        dialogue.silent(stream)
        return None, 0
    if reply is None:
        dialogue.replied(stream, dialogue.reply_ids(force), 0, refractory)
        return force, 0
    dialogue.replied(stream, reply.ids, reply.cached, refractory)
    said = reply.ids[len(dialogue.marker) :]
    return dialogue.turn.decode(said), len(said)
