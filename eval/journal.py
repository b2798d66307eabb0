"""The journal of a run: one JSON line an episode, on the disk before the next is begun."""

import fcntl
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import RunError


class Journal:
    """Appends lines to `path` that survive whatever happens right after. One process at a time; close it, or use it in a `with` block."""

    def __init__(self, path):
        self.path = Path(path)
        with said_what(self.path):
            self._file = self.path.open("ab")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._file.close()
                raise RunError(f"{self.path} is being written by another process; wait for it, or give another --out") from None
            # A process that was killed while it wrote leaves half a line: the next would be glued to it.
            self._file.truncate(_whole(self.path.read_bytes()))

    def append(self, row):
        """Write one JSON object and wait until it is on the disk. Raises RunError when the disk is full."""
        with said_what(self.path):
            self._file.write((json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace"))
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self):
        with suppress(OSError):  # what could not be written was already complained about
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def untouched(path):
    """Whether nothing was ever written to the journal `path` and no process has it open. Raises RunError."""
    with said_what(path), open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return not file.read(1)


def read_lines(path):
    """`{episode_id: line}` of the whole lines of a journal, the first of each id; bytes with their line end. Raises RunError."""
    lines = {}
    for number, line in enumerate(whole_lines(path), 1):
        try:
            lines.setdefault(json.loads(line)["episode_id"], line)
        except (ValueError, LookupError, TypeError):
            raise RunError(f"{path}, line {number}: not an episode of a run; delete the line and run again") from None
    return lines


def whole_lines(path):
    """The lines of a journal as bytes with their line ends; half a last one, left by a killed process, is none. Raises RunError."""
    with said_what(path):
        data = Path(path).read_bytes()
    return data[: _whole(data)].splitlines(keepends=True)


def write_whole(path, data):
    """Put `data` (bytes) in place in one go: a reader finds the old file or the new one, never a part. Raises RunError."""
    path = Path(path).resolve()  # a link stays one
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with said_what(path):
        if path.exists() and not path.is_file():
            path.write_bytes(data)  # a terminal or a pipe
            return
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)


@contextmanager
def said_what(path):
    """An OSError inside becomes a RunError that names the file and says that nothing is lost."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path}: {error.strerror or error}; every episode that was finished is kept, run the same command again to go on"
        ) from None


def _whole(data):
    return data.rfind(b"\n") + 1
