"""Who does the work of a sweep: one engine in this process, or several that share it, in other processes or on other machines."""

import queue
import threading
from collections import deque
from contextlib import closing
from time import perf_counter
from typing import NamedTuple

from .baselines import poll_bundle
from .errors import RunError
from .sweep_frames import Ahead
from .sweep_lanes import watch_bundle

POLICIES = ("stream", "timed", "simplestream")


class Done(NamedTuple):
    """A piece of work: turns taken, `(episode_id, [Turn], err)` of episodes that ended, seconds it took, and of them waited for frames."""

    turns: int
    episodes: list
    seconds: float
    waited: float


class Worker:
    """An engine and a policy."""

    def __init__(self, model, policy):
        self.model, self.policy, self.engine, self.ahead = model, policy, model.load(), Ahead()

    def run(self, bundle, upcoming=()):
        """Yield `Done`s, while the videos of the bundle behind this one begin to decode."""
        self.ahead.prepare([*bundle, *upcoming])
        if self.policy == "simplestream":
            work = poll_bundle(self.engine, bundle, self.model.streams, self.ahead)
        else:
            work = watch_bundle(self.engine, bundle, self.ahead, timed=self.policy == "timed")
        with closing(work):
            began, waited = perf_counter(), self.ahead.waited
            for turns, episodes in work:
                yield Done(turns, episodes, perf_counter() - began, self.ahead.waited - waited)
                began, waited = perf_counter(), self.ahead.waited


def work_here(model, policy, bundles):
    """All bundles one after the other in this thread: yields `Done`s."""
    worker = Worker(model, policy)
    try:
        for bundle, upcoming in zip(bundles, [*bundles[1:], ()]):
            yield from worker.run(bundle, upcoming)
    finally:
        worker.ahead.close()


def work_on_ray(address, model, policy, bundles):
    """Bundles spread over the GPUs of a Ray cluster, as `work_here`.

    address: "local" starts Ray on this machine, "auto" or HOST:PORT joins a cluster. The videos lie at the same paths on every machine.
    Raises RunError when Ray is missing or an actor dies.
    """
    with Cluster(address) as cluster:
        yield from spread(cluster.hands(model, policy, len(bundles)), bundles)


def spread(hands, bundles):
    """Bundles, the longest first, shared among `hands`: whoever is free takes the next. Yields `Done`s as they come.

    A hand has `run(bundle, upcoming)`, as `Worker`. Raises what one of them raises.
    """
    share, events, stopping = Share(bundles), queue.SimpleQueue(), threading.Event()
    threads = [threading.Thread(target=_serve, args=(hand, share, events, stopping), daemon=True) for hand in hands]
    try:
        for thread in threads:
            thread.start()
        busy = len(threads)
        while busy:
            event = events.get()
            if event is None:
                busy -= 1
            elif isinstance(event, Exception):
                raise event
            else:
                yield event
    finally:
        stopping.set()


class Share:
    """The bundles that are left. Each hand has one set aside, so that its videos can decode ahead, until another has nothing else to do."""

    def __init__(self, bundles):
        self._left, self._aside, self._lock = deque(bundles), {}, threading.Lock()

    def take(self, hand):
        """`(bundle, upcoming)` for `hand`, any key; `((), ())` when nothing is left."""
        with self._lock:
            if hand not in self._aside and not self._left and self._aside:
                hand = next(iter(self._aside))
            bundle = self._aside.pop(hand, ()) or (self._left.popleft() if self._left else ())
            if self._left:
                self._aside[hand] = self._left.popleft()
            return bundle, self._aside.get(hand, ())


class Cluster:
    """A connection to Ray. Raises RunError when Ray is not installed or does not answer."""

    def __init__(self, address):
        try:
            import ray
        except ImportError:
            raise RunError("--ray needs Ray; pip install 'evostreaming[ray]'") from None
        self.ray = ray
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RunError(f"Ray at {address} cannot be reached: {error}") from None

    @property
    def gpus(self):
        return int(self.ray.cluster_resources().get("GPU", 0))

    def hands(self, model, policy, most):
        """One actor a GPU, one on the CPU where there is none; no more than `most`."""
        remote = self.ray.remote(num_cpus=1, num_gpus=1 if self.gpus else 0)(Worker)
        return [Actor(self.ray, remote.remote(model, policy)) for _ in range(min(max(self.gpus, 1), most))]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.ray.shutdown()


class Actor:
    """A `Worker` in a Ray actor."""

    def __init__(self, ray, actor):
        self.ray, self.actor = ray, actor

    def run(self, bundle, upcoming=()):
        try:
            for answer in self.actor.run.options(num_returns="streaming").remote(bundle, upcoming):
                yield self.ray.get(answer)
        except self.ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else RunError(str(error))) from None
        except self.ray.exceptions.RayError as error:
            raise RunError(f"a Ray worker is gone ({type(error).__name__}: {error}); run the same command again to go on") from None


def _serve(hand, share, events, stopping):
    """Feed one hand and pass on what it reports."""
    try:
        while (work := share.take(id(hand)))[0]:
            for done in hand.run(*work):
                events.put(done)
                if stopping.is_set():
                    return
        events.put(None)
    except Exception as error:
        events.put(error)
