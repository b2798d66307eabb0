"""Several GPUs of this machine: a process and an engine each, that share the bundles of a sweep."""

import multiprocessing
import os
import signal
import sys
import traceback
from contextlib import contextmanager
from functools import partial

from ..engine.errors import ArgumentError, EvoStreamingError
from .errors import RunError
from .sweep_workers import Worker, spread

SPAWN = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA
VISIBLE = "CUDA_VISIBLE_DEVICES"


def work_on_gpus(count, model, policy, bundles):
    """Bundles spread over `count` GPUs of this machine, as `sweep_workers.work_here`.

    Raises ArgumentError when there are fewer, RunError when a process dies, and what an engine raises.
    """
    with Processes(partial(Worker, model, policy), visible_gpus(count)[: len(bundles)]) as hands:
        yield from spread(hands, bundles)


def visible_gpus(count):
    """The first `count` GPUs that this process may use, as the values of CUDA_VISIBLE_DEVICES that show one each."""
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count > there:
        raise ArgumentError(f"--gpus {count}: there are {there} on this machine; give as many, or --ray HOST:PORT for those of others")
    shown = os.environ.get(VISIBLE)
    return [name.strip() for name in shown.split(",")][:count] if shown else [str(i) for i in range(count)]


class Processes:
    """A `Hand` for each of `gpus`, values of CUDA_VISIBLE_DEVICES; `make`, which has to be picklable, makes the worker in its process."""

    def __init__(self, make, gpus):
        self.hands = [Hand(make, gpu) for gpu in gpus]

    def __enter__(self):
        return self.hands

    def __exit__(self, *exc):
        for hand in self.hands:
            hand.close()


class Hand:
    """A worker in a process of its own. It loads its model while whoever made it goes on."""

    def __init__(self, make, gpu):
        self.gpu, self._ready = gpu, False
        self._pipe, there = SPAWN.Pipe()
        # The process ends with this one, however that ends: its pipe is closed then.
        self._process = SPAWN.Process(target=_attend, args=(there, make, gpu), daemon=True)
        with showing(gpu):
            self._process.start()
        there.close()

    def ready(self):
        """Wait until the model is loaded. Raises what loading it raises, RunError when the process dies."""
        if not self._ready:
            for _ in self._answers():
                pass
            self._ready = True

    def run(self, bundle, upcoming=()):
        """As `Worker.run`."""
        self.ready()
        self._pipe.send((bundle, upcoming))
        yield from self._answers()

    def close(self):
        self._process.terminate()
        self._process.join()
        self._pipe.close()

    def _answers(self):
        while True:
            try:
                answer = self._pipe.recv()
            except (EOFError, OSError):
                self._process.join()
                raise RunError(
                    f"the process on GPU {self.gpu} is gone (exit code {self._process.exitcode}); run the same command again to go on"
                ) from None
            if answer is None:
                return
            if isinstance(answer, Failure):
                raise answer.error()
            yield answer


class Failure:
    """An error on its way to another process. Errors that are made from other arguments than their text do not survive pickling."""

    def __init__(self, error):
        self.kind, self.text, self.facts = type(error), str(error), vars(error)

    def error(self):
        error = self.kind.__new__(self.kind, self.text)
        error.__dict__.update(self.facts)
        return error


@contextmanager
def showing(gpu):
    """A process that is started inside sees this GPU alone. It cannot choose itself: its imports may ask for devices before."""
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = gpu
    try:
        yield
    finally:
        os.environ.pop(VISIBLE)
        if before is not None:
            os.environ[VISIBLE] = before


def _attend(pipe, make, gpu):
    """Answer `(bundle, upcoming)`s that come through `pipe` with `Done`s and None behind the last; a first None says the model is there."""
    # Ctrl-C reaches every process of the terminal; the one that was started by the user says what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        worker = make()
        pipe.send(None)
        while True:
            for done in worker.run(*pipe.recv()):
                pipe.send(done)
            pipe.send(None)
    except (EOFError, BrokenPipeError):
        sys.exit()  # nobody is listening any more
    except EvoStreamingError as error:
        pipe.send(Failure(error))
    except Exception as error:
        traceback.print_exc()
        pipe.send(Failure(RunError(f"the process on GPU {gpu} failed ({type(error).__name__}: {error}); what it wrote stands above")))
