"""Verdicts kept on disk: an append-only JSONL file keyed by what was judged, by whom and with which prompt."""

import hashlib
import json
import os
import threading
from pathlib import Path

from .errors import JudgeError


def verdict_key(judge_id, prompt_version, question, gold, response):
    """sha256 over the five parts, each with its length so that no two different tuples read the same."""
    digest = hashlib.sha256()
    for part in (judge_id, prompt_version, question, gold, response):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


class VerdictCache:
    """`get` and `put` by key from any thread; what was put survives a crash right after. `path` None keeps it in memory."""

    def __init__(self, path=None):
        self.path, self._lock, self._known = path and Path(path), threading.Lock(), {}
        if self.path is None or not self.path.exists():
            return
        try:
            data = self.path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                # A run was killed while writing: without this the next verdict would be glued to the torn line.
                os.truncate(self.path, whole)
        except OSError as error:
            raise JudgeError(f"judge cache {self.path} cannot be used: {error.strerror}") from None
        for number, line in enumerate(data[:whole].splitlines(), 1):
            try:
                row = json.loads(line)
                self._known[row["key"]] = float(row["score"])
            except (ValueError, KeyError, TypeError):
                raise JudgeError(f"{self.path}, line {number}: not a verdict; delete the line or give another --judge-cache") from None

    def __len__(self):
        return len(self._known)

    def get(self, key):
        with self._lock:
            return self._known.get(key)

    def put(self, key, score, **what):
        with self._lock:
            if key in self._known:
                return
            if self.path is not None:
                self._append(json.dumps({"key": key, "score": score, **what}, ensure_ascii=False) + "\n")
            self._known[key] = score

    def _append(self, text):
        try:
            with open(self.path, "ab") as out:
                out.write(text.encode("utf-8", "replace"))
                out.flush()
                os.fsync(out.fileno())
        except OSError as error:
            raise JudgeError(
                f"judge cache {self.path} cannot be written: {error.strerror}; verdicts so far are kept, run again with room on the disk"
            ) from None
