"""Questions beside what they are about: each video is shown once to all questions on it that come one after the other."""

import logging
from dataclasses import dataclass, field

from ...engine.errors import FrameError, TextTooLong, VideoError
from .prompt import Prompt, frames_of, until

THEIR_FAULT = (VideoError, FrameError, TextTooLong)  # of one question; whatever else goes wrong ends the run
MAX_TOKENS = 256
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """`where` it comes from: doc, task, split. `settings` of lmms-eval for its answer: max_new_tokens, temperature, do_sample, until."""

    prompt: Prompt
    where: tuple
    settings: dict = field(default_factory=dict)

    @property
    def shown(self):
        """Equal for questions that are asked of the same."""
        seen = self.prompt.media if self.prompt.clips else tuple(self.where)
        return self.prompt.system, seen

    @property
    def sampling(self):
        """(tokens at most, temperature)."""
        wanted = self.settings
        sampled = wanted.get("do_sample", True)  # a temperature alone asks for it, too
        return int(wanted.get("max_new_tokens") or MAX_TOKENS), float(wanted.get("temperature") or 0.0) if sampled else 0.0


class Asker:
    """Asks `engine`, which sees at most `frames` frames of each video; questions on up to `batch` videos are answered together."""

    @staticmethod
    def room(batch):
        """Streams that an engine needs for `batch` full ones and as many questions: each fork adds half a stream of text at most."""
        return 2 * batch + 2

    def __init__(self, engine, frames, batch):
        self.engine, self.frames, self.batch = engine, frames, batch
        self.seed, self._last, self._warned = 0, None, set()

    def answers(self, questions):
        """Yield `(text, tokens)` of each question in order; one whose video cannot be read is answered with nothing, and logged."""
        waiting, shown = [], set()
        for question in questions:
            self._warn(question.settings)
            if len(shown | {question.shown}) > self.batch or len(waiting) == self.room(self.batch):
                yield from self._flush(waiting)
                waiting, shown = [], set()
            waiting.append(question)
            shown.add(question.shown)
        yield from self._flush(waiting)

    def likelihoods(self, question, replies):
        """`(loss, greedy)` of each reply, see `Engine.likelihoods`. What the question is about stays open for the next one."""
        if self._last is None or self._last[0] != question.shown:
            self._forget()
            self._last = question.shown, self._show(question.prompt)
        # A reply begins behind the template's own blank; the one that lmms-eval puts in front of a choice would be a second.
        return self.engine.likelihoods(self._last[1], question.prompt.text, [reply.lstrip() for reply in replies])

    def close(self):
        """Close the engine."""
        self._last = None
        self.engine.close()

    def _flush(self, questions):
        self._forget()
        streams, results, together = {}, {}, {}
        try:
            for i, question in enumerate(questions):
                try:
                    if question.shown not in streams:
                        streams[question.shown] = self._show(question.prompt)
                    self.engine._check_text(streams[question.shown], question.prompt.text)
                    together.setdefault(question.sampling, []).append(i)
                except THEIR_FAULT as error:
                    logger.error(f"{question.where}: answered with nothing: {error}")
                    results[i] = "", 0
            for (tokens, temperature), members in together.items():
                asked = [questions[i] for i in members]
                texts = self.engine.generate(
                    [streams[q.shown] for q in asked], [q.prompt.text for q in asked], tokens, temperature=temperature, seed=self.seed
                )
                self.seed += 1  # a question that is asked again is to be drawn anew
                for i, question, text in zip(members, asked, texts):
                    results[i] = until(text, question.settings.get("until")), len(self.engine.dialogue.turn.encode(text))
        finally:
            for stream in streams.values():
                stream.close()
        for i in range(len(questions)):
            yield results[i]

    def _show(self, prompt):
        frames, times = frames_of(prompt.media, self.frames)
        stream = self.engine.open(system=prompt.system)
        try:
            if frames:
                self.engine.scan(frames, stream, times=times, force=False)
        except BaseException:
            stream.close()
            raise
        return stream

    def _forget(self):
        if self._last is not None:
            self._last[1].close()
            self._last = None

    def _warn(self, settings):
        """Say once what a task asks for and this engine does not do."""
        asked = {"num_beams": settings.get("num_beams") or 1}
        if "temperature" in settings and settings.get("do_sample", True) and settings["temperature"]:
            asked |= {"top_p": settings.get("top_p") or 1, "top_k": settings.get("top_k") or 1}
        for name, value in asked.items():
            if value != 1 and name not in self._warned:
                self._warned.add(name)
                logger.warning(f"{name}={value} is not followed: this engine takes the likeliest token, or draws by temperature alone")
