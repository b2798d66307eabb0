"""A checkpoint on this machine as the judge of free text, through our own engine: no server, no network."""

import threading
from pathlib import Path

from ..engine.errors import EvoStreamingError
from ..engine.locate import locate
from .llm_judge import LLMJudge, no_verdict
from .sweep_model import fingerprint
from .verdicts import VerdictCache

MAX_TOKENS = 256  # room for a thought before the grade


class LocalJudge(LLMJudge):
    """As `LLMJudge`, with the same prompt and grades, but asking the checkpoint `path`.

    It is loaded at the first question that the cache does not answer. Raises CheckpointError for a path that holds none; a question that
    the engine refuses, or that is not answered with a grade, is left unscored.
    """

    def __init__(self, path, cache=None, device="auto", dtype="auto"):
        directory = locate(path)
        self.path, self.device, self.dtype = path, device, dtype
        # Two checkpoints of one name must not share verdicts.
        self.name = f"local:{Path(directory).resolve().name}@{fingerprint(directory)[:12]}"
        self.cache = cache if isinstance(cache, VerdictCache) else VerdictCache(cache)
        self.threads, self.last_error, self._unscored = 1, None, set()
        self._engine, self._lock = None, threading.Lock()

    def _ask(self, prompt, read):
        # An engine belongs to one thread at a time.
        with self._lock:
            self._load()
            try:
                with self._engine.open() as stream:
                    reply = self._engine.generate(stream, prompt, max_tokens=MAX_TOKENS)
            except EvoStreamingError as error:
                self.last_error = f"{type(error).__name__}: {error}"
                return None
        verdict = read(reply)
        if verdict is None:
            self.last_error = no_verdict(reply)
        return verdict

    def _load(self):
        if self._engine is None:
            from .. import Engine

            self._engine = Engine.from_pretrained(self.path, device=self.device, dtype=self.dtype, max_streams=2, max_tokens=8192)
