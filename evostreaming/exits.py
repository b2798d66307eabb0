"""How the program ends.

Exit codes: 0 done · 1 the engine refused (out of pages, not a number, ...) · 2 bad arguments · 3 bad input file ·
4 model cannot be loaded · 130 Ctrl-C.
"""

import os
import signal
from contextlib import contextmanager

import typer
from rich.console import Console

from .engine.errors import EvoStreamingError

INTERRUPTED = 130


@contextmanager
def exit_codes():
    """Every error on purpose becomes one line on stderr and its exit code."""
    try:
        yield
    except KeyboardInterrupt:
        fail("stopped by Ctrl-C", INTERRUPTED)
    except EvoStreamingError as error:
        fail(error, error.exit_code)


@contextmanager
def nothing_to_lose():
    """Ctrl-C ends the program at once: as an exception it would turn into whatever error a half-imported module makes of it."""

    def leave(*signaled):
        os.write(2, b"evostreaming: stopped by Ctrl-C\n")
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def fail(error, code):
    line = " ".join(str(error).splitlines())
    Console(stderr=True).print(f"evostreaming: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)
