"""One frame in, one decision out: `Engine` is the whole public face of the room."""

import threading
from contextlib import contextmanager
from pathlib import Path

import torch

from .cache import PagedCache, PageTable, most_pages
from .checkpoint import load_model
from .config import ModelConfig
from .context import Context, Piece
from .dialogue import Dialogue
from .errors import ArgumentError, EngineBusy, TextTooLong
from .forward import Chunk, Forward, read_decision
from .frames import FrameEncoder, as_uint8_rgb, check_finite
from .gate import Gate
from .locate import locate
from .prompts import TurnFormat
from .reply import decode
from .rope import Rope
from .scan import scan
from .step import Step, Stopwatch
from .stream import Stream
from .streaming_format import StreamingFormat


class Engine:
    """Watches streams frame by frame. Load one with `from_pretrained`; it belongs to one thread at a time."""

    def __init__(self, model, config, turn, streaming, *, max_streams, max_tokens, frame_size, tokens_per_frame, gate, history, max_reply):
        """Takes a loaded model; `from_pretrained` says what the rest means. Raises CapacityError when the cache does not fit."""
        weight = model.decoder.embed.weight
        self.device, self.dtype, self.config, self.gate, self.max_reply = weight.device, weight.dtype, config, gate, max_reply
        self.streaming, self.max_tokens, self.model = streaming, max_tokens, model
        self.dialogue = Dialogue(turn, streaming, history or streaming.history)
        if gate.mode == "pair" and not self.dialogue.marker:
            raise ArgumentError('gate mode "pair" needs a checkpoint tuned with a reply marker; its streaming.json names none')
        self.cache = PagedCache(config.decoder, max_streams * most_pages(max_tokens), self.device, self.dtype)
        self.forward = Forward(model, self.cache, Rope(config.decoder, self.device), max_tokens)
        self.frames = FrameEncoder(model.tower, config, self.device, self.dtype, frame_size, tokens_per_frame, self.forward.graphs)
        self._streams, self._implicit, self._lock = set(), None, threading.RLock()

    @classmethod
    def from_pretrained(
        cls,
        path,
        *,
        device="auto",
        dtype="auto",
        quantization=None,
        adapter=None,
        max_streams=8,
        max_tokens=16384,
        sink_tokens="prompt",
        frame_size=None,
        tokens_per_frame=None,
        gate=None,
        history=None,
        max_reply=256,
    ):
        """Load a checkpoint.

        path: a Hugging Face directory of one of the five families, a hub id, or "tiny" (built in). device: "cuda", "cuda:1", "cpu", or
        "auto" (a GPU if there is one). dtype: "bfloat16", "float16", "float32", or "auto" (bfloat16 on a GPU, float32 on a CPU).
        adapter: a PEFT LoRA directory, merged at load. max_tokens: resident per stream; what exceeds it is evicted, oldest turns first.
        sink_tokens: "prompt", the system prompt and open queries are never evicted. frame_size: (height, width) the model sees; None
        derives it from the first frame and tokens_per_frame, a budget. history: "full" or "replies"; None takes the checkpoint's own.
        max_reply: tokens after which a reply is cut.
        Raises CheckpointError, CapacityError, ArgumentError.
        """
        if quantization is not None:
            raise ArgumentError(f"quantization {quantization!r} is not supported by this version; give None")
        if sink_tokens != "prompt":
            raise ArgumentError(f'sink_tokens {sink_tokens!r} is not known; "prompt" keeps the system prompt and open queries')
        if max_streams < 1 or max_tokens < 1 or max_reply < 1:
            raise ArgumentError("max_streams, max_tokens and max_reply are at least 1")
        device = choose_device(device)
        dtype = choose_dtype(dtype, device)
        directory = locate(path)
        config = ModelConfig.from_directory(directory)
        streaming = StreamingFormat.from_directories(directory, Path(adapter) if adapter else None)
        turn = TurnFormat(directory, config.turn)
        model = load_model(directory, config, device, dtype, adapter)
        return cls(
            model, config, turn, streaming, max_streams=max_streams, max_tokens=max_tokens, frame_size=frame_size,
            tokens_per_frame=tokens_per_frame, gate=gate or Gate(), history=history, max_reply=max_reply,
        )  # fmt: skip

    @torch.inference_mode()
    def open(self, query=None, system=None, logits=False):
        """Begin a stream. system: text of the system turn; None takes the checkpoint's. Raises OutOfPages, TextTooLong."""
        with self._exclusive():
            system = self.streaming.system if system is None else system
            ids = tuple(self.dialogue.turn.system(system))
            self._check_fits(len(ids), "the system prompt")
            context = Context(PageTable(self.cache, "this stream"), self.config.decoder.mrope_section is not None)
            stream = Stream(self, context, logits=logits)
            if query is not None:
                stream.ask(query)
            if ids:
                try:
                    self.forward([context], [Chunk([Piece("system", -1, ids)], [], [])])
                except BaseException:
                    context.close()
                    raise
            self._streams.add(stream)
            return stream

    @torch.inference_mode()
    def step(self, frame, stream=None, *, streams=None, time=None, force=None):
        """Show one frame to one stream, or a list of frames to as many `streams` in one batch.

        time: seconds of the frame (a list for a batch); without it turns are counted. force: False makes the turn silent, a string gives
        that reply, None lets the gate decide (a list for a batch). Returns a Step, or a list of them.
        Raises FrameError, OutOfPages, TextTooLong, NumericsError, StreamClosed: the streams have then not taken the step; at most old
        turns were evicted to make room for it.
        """
        if streams is not None:
            frames, count = list(frame), len(streams)
            if stream is not None or len(frames) != count or len(set(streams)) != count or not count:
                raise ArgumentError(f"a batch is one frame a stream, each stream once: {len(frames)} frames, {count} streams")
            times, forces = (value if isinstance(value, list | tuple) else [value] * count for value in (time, force))
            if len(times) != count or len(forces) != count:
                raise ArgumentError(f"{count} streams need as many times and forces, or one for all")
            return self._step(frames, list(streams), times, forces)
        if stream is None:
            if self._implicit is None or self._implicit.closed:
                self._implicit = self.open()
            stream = self._implicit
        return self._step([frame], [stream], [time], [force])[0]

    @torch.inference_mode()
    def scan(self, frames, stream=None, *, times=None):
        """Many frames of one stream, several a pass: the same Steps as stepping through them, faster while the stream is silent."""
        frames = list(frames)
        times = [None] * len(frames) if times is None else list(times)
        if len(times) != len(frames):
            raise ArgumentError(f"{len(frames)} frames need as many times, not {len(times)}")
        if stream is None:
            stream = self._implicit = self._implicit if self._implicit and not self._implicit.closed else self.open()
        with self._exclusive():
            stream._check()
            return scan(self, stream, frames, times)

    @torch.inference_mode()
    def generate(self, stream, prompt, max_tokens=256):
        """Answer a text question from what the stream has seen, without leaving a trace in it. Returns the text."""
        with self._exclusive():
            stream._check()
            self._check_text(stream, prompt)
            dialogue, turn = self.dialogue, stream.index
            with stream.fork() as fork:
                ids = (*fork.pending, *dialogue.turn.text_turn(prompt), *dialogue.prompt)
                rows = self.forward([fork.context], [Chunk([Piece("text", turn, ids)], [], [len(ids) - 1])])
                ends = dialogue.turn.end_ids
                ((reply, _),) = decode(self.forward, [fork.context], [turn], rows, (), ends, ends, max_tokens)
            return dialogue.turn.decode(reply)

    def _step(self, frames, streams, times, forces):
        with self._exclusive():
            for stream, force in zip(streams, forces):
                stream._check()
                if isinstance(force, str):
                    self._check_text(stream, force)
                elif force is not None and force is not False:
                    raise ArgumentError(f"force is None, False or the text of a reply, not {force!r}")
            watch = Stopwatch(self.device)
            with keeping(streams):
                encoded = self._encode(frames, streams, watch)
                return self._turns(streams, encoded, times, forces, watch)

    def _encode(self, frames, streams, watch):
        """Frames to visual tokens; a stream's first frame fixes what the model sees of it. `streams`: one a frame."""
        patches = []
        for frame, stream in zip(frames, streams):
            frame = as_uint8_rgb(frame, self.device)
            stream.size = stream.size or self.frames.size_of(frame)
            patches.append(self.frames.patches(frame, stream.size))
        watch.lap("preprocess")
        encoded = self.frames.encode(patches, [stream.size for stream in streams])
        watch.lap("vision")
        return encoded

    def _turns(self, streams, encoded, times, forces, watch):
        dialogue = self.dialogue
        chunks = []
        for stream, frame, time in zip(streams, encoded, times):
            pieces = [*dialogue.user_turn(stream, frame, time), dialogue.probe(stream)]
            chunks.append(Chunk(pieces, [frame], [sum(len(piece.ids) for piece in pieces) - 1]))
        rows = self.forward([stream.context for stream in streams], chunks)
        watch.lap("prefill")
        speak, probability = self._decide(rows, encoded)
        logits = self.forward.logits(rows) if any(stream.logits for stream in streams) else None
        watch.lap("gate")
        for index, (stream, force) in enumerate(zip(streams, forces)):
            dialogue.shown(stream)
            speak[index] = isinstance(force, str) or (force is None and speak[index] and not stream.refractory)
        replies = self._reply(streams, speak, forces, rows)
        watch.lap("reply")
        latency, steps = watch.latency(), []
        for index, (stream, time) in enumerate(zip(streams, times)):
            text, tokens = replies[index]
            seen = float(stream.index if time is None else time)
            full = logits[index] if stream.logits else None
            steps.append(Step(stream.index, seen, speak[index], probability[index], text, tokens, full, latency))
            stream.index += 1
        return steps

    def _decide(self, rows, encoded):
        marker = self.dialogue.marker[0] if self.dialogue.marker else None
        decision = self.forward.decide(rows, self.gate, self.dialogue.silence[0], marker)
        check_finite(encoded)  # here, not before the decoder: this is where the host first waits
        return read_decision(*decision)

    def _reply(self, streams, speak, forces, rows):
        """Close the turn of every stream: silence, the forced text or a decoded reply. Returns (text, generated tokens) a stream."""
        dialogue = self.dialogue
        result = [(None, 0)] * len(streams)
        free = [index for index, force in enumerate(forces) if speak[index] and force is None]
        if free:
            # Where the gate overrules the most likely token, the reply still has to say something.
            banned = {dialogue.silence[0], *dialogue.turn.end_ids} if self.gate.mode == "softmax" else ()
            contexts, turns = [streams[index].context for index in free], [streams[index].index for index in free]
            args = (dialogue.marker, banned, dialogue.turn.end_ids, self.max_reply)
            for index, (ids, cached) in zip(free, decode(self.forward, contexts, turns, rows[free], *args)):
                dialogue.replied(streams[index], ids, cached, self.gate.refractory)
                said = ids[len(dialogue.marker) :]
                result[index] = (dialogue.turn.decode(said), len(said))
        for index, (stream, force) in enumerate(zip(streams, forces)):
            if not speak[index]:
                dialogue.silent(stream)
            elif force is not None:
                dialogue.replied(stream, dialogue.reply_ids(force), 0, self.gate.refractory)
                result[index] = (force, 0)
        return result

    def _check_text(self, stream, text):
        if not isinstance(text, str):
            raise ArgumentError(f"a query, prompt or reply is text, not {type(text).__name__}")
        sinks = sum(len(span.ids) for span in stream.context.sinks if span.kind == "system")
        self._check_fits(sinks + len(self.dialogue.turn.encode(text)), "the system prompt and this text")

    def _check_fits(self, tokens, what):
        if tokens > self.max_tokens // 2:
            raise TextTooLong(f"{what} take {tokens} tokens; at most half of max_tokens ({self.max_tokens // 2}) can be text that stays")

    @contextmanager
    def _exclusive(self):
        """One thread at a time; the same thread may nest."""
        if not self._lock.acquire(blocking=False):
            raise EngineBusy("another thread is inside this engine; give each thread its own engine, or take turns with a lock of your own")
        try:
            yield
        finally:
            self._lock.release()


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


def choose_device(name):
    """A torch device from a name; "auto" is a GPU if there is one. Raises ArgumentError for a GPU that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ArgumentError(f'device {name!r} is none of "auto", "cpu", "cuda", "cuda:1", ...') from None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ArgumentError(f"device {name!r} was asked for, but this PyTorch sees no CUDA device; give device='cpu'")
        device = torch.device("cuda", device.index or 0)
        if device.index >= torch.cuda.device_count():
            raise ArgumentError(f"device {name!r} was asked for, but there are only {torch.cuda.device_count()}")
    elif device.type != "cpu":
        raise ArgumentError(f"device {name!r} is neither a CUDA device nor the CPU")
    return device


def choose_dtype(name, device):
    """A torch dtype from a name; "auto" is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in ("bfloat16", "float16", "float32"):
        raise ArgumentError(f'dtype {name!r} is none of "bfloat16", "float16", "float32", "auto"')
    return getattr(torch, name)
