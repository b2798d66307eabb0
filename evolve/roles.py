"""The base model in its three roles, all of them calls of one `Engine` with history "replies", so that silent turns leave only frames."""

import gc
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import torch

from ..engine.engine import Engine
from ..engine.gate import Gate
from .videos import read_frames
from .wording import LETTERS, normalized


class Roles:
    """model: checkpoint directory; adapter: of the round before, or None; prompts: `Prompts`; settings: `Settings`; folder: of the videos;
    number: of the round, which goes into every seed. The engine is loaded when it is first needed."""

    def __init__(self, model, adapter, prompts, settings, folder, device, number):
        self.model, self.adapter, self.prompts, self.settings = model, adapter, prompts, settings
        self.folder, self.device, self.number, self.ahead = Path(folder), device, number, {}

    @cached_property
    def engine(self):
        settings = self.settings
        return Engine.from_pretrained(
            self.model, device=self.device, adapter=self.adapter, history="replies", gate=Gate("greedy"), max_streams=2 * settings.batch,
            tokens_per_frame=settings.tokens_per_frame, max_reply=settings.max_answer,
        )  # fmt: skip

    def unload(self):
        """Give the memory of the engine back."""
        self.__dict__.pop("engine", None)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    @cached_property
    def _reader(self):
        return ThreadPoolExecutor(2)

    def read_ahead(self, items):
        """Begin to decode the videos of the next group; those of this one may still be waiting here."""
        self.ahead |= {item["video"]: self._reader.submit(self._read, item["video"]) for item in items}

    def frames(self, video):
        """([frame], [seconds]) of a video. Raises VideoError, and FrameError for a shape that the model cannot see."""
        waiting = self.ahead.pop(video, None)
        frames, times = waiting.result() if waiting else self._read(video)
        self.engine.frames.size_of(frames[0])
        return frames, times

    def _read(self, video):
        return read_frames(self.folder / video, self.settings.fps)

    @contextmanager
    def watching(self):
        """watch([(frames, times)]) -> a stream for each that has seen them, a frame of all a batch; they are closed at the end."""
        streams = []

        def watch(shown):
            new = [self.engine.open(system=self.prompts.system) for _ in shown]
            streams.extend(new)
            for turn in range(max((len(frames) for frames, _ in shown), default=0)):
                self.show([(stream, frames[turn], times[turn]) for stream, (frames, times) in zip(new, shown) if turn < len(frames)])
            return new

        try:
            yield watch
        finally:
            for stream in streams:
                stream.close()

    def show(self, turns):
        """A silent turn of each [(stream, frame, seconds)], in one batch."""
        streams, frames, times = (list(column) for column in zip(*turns))
        self.engine.step(frames, streams=streams, time=times, force=False)

    def letters(self, streams, prompt):
        """Probabilities of the options A to E for each stream: [[5 floats]]. A gate over five rows."""
        return self.engine.choose(streams, [prompt] * len(streams), list(LETTERS)) if streams else []

    def yes(self, streams, questions):
        """For each stream, the probability that what it has seen is relevant to its question. A gate over two rows."""
        texts = [self.prompts.relevant.format(question=question) for question in questions]
        return [row[0] for row in self.engine.choose(streams, texts, [self.prompts.yes, self.prompts.no])] if streams else []

    def ask(self, streams, topics, seed):
        """A sampled question for each stream on its topic."""
        texts = [self.prompts.ask.format(topic=topic) for topic in topics]
        settings = self.settings
        return self.engine.generate(streams, texts, settings.max_answer, temperature=settings.temperature, seed=seed) if streams else []

    def answer(self, streams, questions):
        """What the model says to each stream's question, most likely words."""
        return [text.strip() for text in self.engine.generate(streams, questions, self.settings.max_answer)] if streams else []

    def no_answer(self, text):
        """Why this is no answer ("no answer", "not answered by the video"), or None; a tuned model may keep silent where it is asked."""
        words = normalized(text)
        if not words or words == normalized(self.engine.streaming.silence):
            return "no answer"
        return "not answered by the video" if words in {normalized(pending) for pending in self.prompts.pending} else None
