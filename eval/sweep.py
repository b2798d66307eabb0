"""A whole benchmark on a model: plan, run, journal every episode, go on where a killed run stopped, score."""

import json

from .baselines import polls
from .journal import Journal, write_whole
from .run_folder import EPISODES, SCORES, TRACES
from .scorecard import scorecard
from .settings import DEFAULT
from .sweep_plan import plan_bundles, plan_watches
from .sweep_processes import work_on_gpus
from .sweep_progress import Progress
from .sweep_workers import work_here, work_on_ray
from .traces import Trace, trace_row

META = ("model", "adapter", "engine_commit", "max_new_tokens", "system_prompt_sha256")


def sweep(folder, model, paths, policy="stream", shard=(1, 1), ray=None, gpus=1):
    """Run what is left of `folder` (a RunFolder) and write its traces; returns their path, or None while other shards are at work.

    paths: `{video: path}`; policy: "stream", "timed" or "simplestream"; shard: (number from 1, of how many); ray: see `work_on_ray`;
    gpus: how many of this machine to use.
    Raises RunError, CheckpointError, CapacityError, ArgumentError.
    """
    number, count = shard
    # Two streams, a trunk that is never used and the episode's own: a timed episode has the engine to itself.
    alone, room = policy == "timed", 2 if policy == "timed" else model.streams
    bundles = plan_bundles(plan_watches(folder.episodes, paths, alone), room)[number - 1 :: count]
    meta = {name: folder.settings[name] for name in META if folder.settings.get(name) is not None}
    with Journal(folder.journal(shard)) as journal:
        finished = set(folder.finished())
        mine = [strand.episode_id for bundle in bundles for watch in bundle for strand in watch.strands]
        # A bundle is run whole or not at all: another batch could say something else.
        left = [b for b in bundles if any(strand.episode_id not in finished for watch in b for strand in watch.strands)]
        if left:
            if ray is not None:
                work = work_on_ray(ray, model, policy, left)
            else:
                work = work_on_gpus(gpus, model, policy, left) if gpus > 1 else work_here(model, policy, left)
            cost = sum((polls(watch) if policy == "simplestream" else watch.turns) for bundle in left for watch in bundle)
            with Progress(len(mine), sum(name in finished for name in mine), cost) as progress:
                for turns, ended, *spent in work:
                    for name, rows, error in ended:
                        if name not in finished:
                            journal.append(trace_row(Trace(name, folder.run_id, tuple(rows), error, meta)))
                            finished.add(name)
                            progress.episode()
                    progress.work(turns, *spent)
            # Not part of the run, which is the same whatever machine it ran on: how fast this command was.
            write_whole(folder.speed(shard), (json.dumps(progress.speed(), indent=1) + "\n").encode())
    return folder.gather()


def score_folder(folder, judge, settings=DEFAULT):
    """Score the traces of a finished run into `scores.json`; returns the card."""
    card = scorecard(folder.path / EPISODES, folder.path / TRACES, judge, settings)
    write_whole(folder.path / SCORES, (json.dumps(card, ensure_ascii=False, allow_nan=False, indent=1) + "\n").encode())
    return card
