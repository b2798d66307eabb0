"""One frame in, one decision out: `Engine` is the whole public face of the room."""

import threading
from contextlib import contextmanager, nullcontext

import torch

from .asking import as_lists, choose, generate, likelihoods
from .cache import PagedCache, PageTable, most_pages
from .checkpoint import load_model
from .config import ModelConfig
from .context import Context, Piece
from .device import choose_device, choose_dtype
from .dialogue import Dialogue
from .errors import ArgumentError, EngineBusy, TextTooLong
from .forward import Chunk, Forward
from .frames import FrameEncoder, as_tensor
from .gate import Gate
from .locate import locate, locate_adapter
from .loop import Loop
from .options import check_options, check_times
from .prompts import TurnFormat
from .rope import Rope
from .scan import scan
from .step import Stopwatch
from .stream import Stream, keeping
from .streaming_format import StreamingFormat
from .turn import run_turns


class Engine:
    """Watches streams frame by frame. Load one with `from_pretrained`; it belongs to one thread at a time.

    Leaving its `with` block closes it.
    """

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
        self._streams, self._implicit = set(), None
        self._lock, self._owner, self._loop = threading.Lock(), None, Loop()

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
        quantization: "fp8" for most products (a GPU of compute capability 8.9 or later, bfloat16), or None. adapter: a PEFT LoRA
        directory or "tiny-evolved" (built in, what "tiny" taught itself), merged at load. max_tokens: resident per stream; what exceeds it
        is evicted, oldest turns first. sink_tokens: "prompt", the system prompt and open queries are never evicted. frame_size: (height,
        width) the model sees; None derives it from the first frame and tokens_per_frame, a budget. history: "full" or "replies"; None
        takes the checkpoint's own. max_reply: tokens after which a reply is cut.
        Raises CheckpointError, CapacityError, ArgumentError.
        """
        check_options(
            max_streams=max_streams, max_tokens=max_tokens, max_reply=max_reply, sink_tokens=sink_tokens, frame_size=frame_size,
            tokens_per_frame=tokens_per_frame, gate=gate,
        )  # fmt: skip
        device = choose_device(device)
        dtype = choose_dtype(dtype, device)
        directory, adapter = locate(path), locate_adapter(adapter)
        config = ModelConfig.from_directory(directory)
        streaming = StreamingFormat.from_directories(directory, adapter)
        turn = TurnFormat(directory, config.turn)
        model = load_model(directory, config, device, dtype, adapter, quantization)
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

    @property
    def captures(self):
        """(CUDA graphs kept, bytes of their memory pool); (0, 0) where steps are launched op by op."""
        graphs = self.forward.graphs
        return (len(graphs.kept), graphs.bytes) if graphs else (0, 0)

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

    def submit(self, frame, stream, time=None):
        """Show one frame to one stream from any thread, without waiting: a Future of its Step.

        The frame is copied before this returns, on its way to the device while the step before still runs. Frames of different streams
        that wait are shown in one batch, frames of one stream in order; what `stream.ask` asked before this call rides with it. The
        future raises what a step would raise, and then its stream has not taken the frame; it raises StreamClosed when the stream is
        closed first. Canceling it works until the frame's turn begins.
        Waits while 8 frames of the stream are under way. Raises StreamClosed, ArgumentError.
        """
        check_times([time])
        return self._loop.submit(self, frame, self._own(stream), time)

    def close(self):
        """Cancel the submitted frames that wait and close all streams. The engine can open others."""
        self._loop.stop()
        for stream in list(self._streams):
            stream.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    @torch.inference_mode()
    def scan(self, frames, stream=None, *, times=None, force=None):
        """Many frames of one stream, several a pass: the same Steps as stepping through them, faster while the stream is silent.

        force: False makes every turn silent, None lets the gate decide.
        """
        frames = list(frames)
        times = [None] * len(frames) if times is None else list(times)
        if len(times) != len(frames):
            raise ArgumentError(f"{len(frames)} frames need as many times, not {len(times)}")
        check_times(times)
        if force is not None and force is not False:
            raise ArgumentError(f"force of a scan is None or False, not {force!r}; a reply is forced by a step")
        if stream is None:
            stream = self._implicit = self._implicit if self._implicit and not self._implicit.closed else self.open()
        with self._exclusive():
            self._own(stream)._check()
            return scan(self, stream, frames, times, force)

    @torch.inference_mode()
    def generate(self, stream, prompt, max_tokens=256, *, temperature=0.0, seed=0):
        """Answer a text question from what the stream has seen, without leaving a trace in it. Returns the text.

        Lists of streams and prompts are answered together and give a list. temperature: 0 takes the most likely words, above it they are
        drawn, the same for the same seed. Raises TextTooLong, OutOfPages.
        """
        streams, prompts = as_lists(self, stream, prompt)
        if temperature < 0 or max_tokens < 1:
            raise ArgumentError(f"temperature {temperature} is at least 0, max_tokens {max_tokens} at least 1")
        with self._exclusive():
            texts = generate(self, streams, prompts, max_tokens, temperature, seed)
        return texts if isinstance(stream, list) else texts[0]

    @torch.inference_mode()
    def choose(self, stream, prompt, choices):
        """How likely each of the choices is to begin the answer to a text question, among them: floats that sum to 1.

        choices: words that begin with different tokens. Leaves no trace in the stream; lists of streams and prompts give a list of lists.
        """
        streams, prompts = as_lists(self, stream, prompt)
        with self._exclusive():
            shares = choose(self, streams, prompts, choices)
        return shares if isinstance(stream, list) else shares[0]

    @torch.inference_mode()
    def likelihoods(self, stream, prompt, replies):
        """How likely each of some given replies is to a text question: a list of (loss, greedy).

        loss: mean -log p of the reply's tokens; greedy: whether each of them is the most likely one. Leaves no trace in the stream.
        Raises ArgumentError on an empty reply, TextTooLong, OutOfPages.
        """
        as_lists(self, stream, prompt)
        for reply in replies:
            self._check_text(stream, reply)
            if not reply:
                raise ArgumentError("an empty reply has no likelihood; give one of at least a token")
        with self._exclusive():
            return likelihoods(self, stream, prompt, replies)

    def _step(self, frames, streams, times, forces):
        check_times(times)
        with self._exclusive():
            for stream, force in zip(streams, forces):
                self._own(stream)._check()
                if isinstance(force, str):
                    self._check_text(stream, force)
                elif force is not None and force is not False:
                    raise ArgumentError(f"force is None, False or the text of a reply, not {force!r}")
            watch = Stopwatch(self.device)
            with keeping(streams):
                encoded = self._encode(frames, streams, watch)
                return run_turns(self, streams, encoded, times, forces, watch)

    def _encode(self, frames, streams, watch):
        """Frames to visual tokens; a stream's first frame fixes what the model sees of it. `streams`: one a frame."""
        frames = [as_tensor(frame) for frame in frames]
        for frame, stream in zip(frames, streams):
            stream.size = stream.size or self.frames.size_of(frame)
        return self.frames.see(frames, [stream.size for stream in streams], watch)

    def _own(self, stream):
        """The stream, if this engine opened it. Raises ArgumentError."""
        if getattr(stream, "engine", None) is not self:
            raise ArgumentError("a stream that this engine's open() gave is accepted, not another engine's")
        return stream

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
        """One thread at a time; the same thread may nest. Once a frame was submitted, others wait for their turn between two passes."""
        me = threading.get_ident()
        if self._owner == me:
            yield
            return
        if self._loop.started:
            with self._loop.line:
                self._lock.acquire()
        elif not self._lock.acquire(blocking=False):
            raise EngineBusy("another thread is inside this engine; submit frames, take turns with a lock, or use one engine a thread")
        try:
            self._owner = me
            with torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext():  # Triton launches on the current one
                yield
        finally:
            self._owner = None
            self._lock.release()
