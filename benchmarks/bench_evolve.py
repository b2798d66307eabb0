"""Self-evolution measured: what each part of it is worth, and how fast its slow stages are at real size.

    python -m benchmarks.bench_evolve ablate RUN --out DIR [--processes 4] [--eval-data DIR]
    python -m benchmarks.bench_evolve rollout [--random qwen2.5-vl-7b] [--videos 16]
    python -m benchmarks.bench_evolve tune [--random qwen2.5-vl-7b] [--trajectories 16] [--history replies] [--profile]

ablate: RUN is finished and evaluated (`evostreaming evolve --evaluate`); 100 to 3,000 trajectories, the other loss balances, with and
without pruning, options and self-consistency, two more rounds and two more seeds (of roll-outs and tuning) are each run and scored, several
side by side on each GPU, and their rows appended to DIR/ablation.jsonl as they end. The same command goes on with what is missing.

rollout, tune: a slice of stages 4 and 5 on random weights, projected to 1,000 trajectories; streams of 60 to 120 turns, 0.5 frames a
second, 128 tokens a frame.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

from evostreaming.engine.errors import EvoStreamingError


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    ablate = commands.add_parser("ablate", help="what each part of a run is worth")
    ablate.add_argument("run", type=Path)
    ablate.add_argument("--out", type=Path, required=True)
    ablate.add_argument("--processes", type=int, default=4, help="side by side on a GPU")
    ablate.add_argument("--only", help="variations whose name contains one of these, e.g. seed,loss")
    ablate.add_argument("--suite", default="world")
    ablate.add_argument("--eval-data", type=Path)
    for name, counted, number in (("rollout", "--videos", 16), ("tune", "--trajectories", 16)):
        speed = commands.add_parser(name, help="speed at real size")
        speed.add_argument("--random", default="qwen2.5-vl-7b", help="a published size with random weights")
        speed.add_argument("--model", help="a checkpoint instead; 'tiny' is built in")
        speed.add_argument(counted, type=int, default=number, dest="count")
        speed.add_argument("--turns", default="60,80,100,120", help="lengths of the streams, in turn")
        speed.add_argument("--json", type=Path)
    tune = commands.choices["tune"]
    tune.add_argument("--history", choices=("full", "replies"), default="full", help="replies: decisions stand on branches")
    tune.add_argument("--eager", action="store_true", help="do not compile the layers")
    tune.add_argument("--room", type=float, help="GB for activations, 0 to compute all of them twice; as much as is free if left out")
    tune.add_argument("--profile", action="store_true", help="take one batch apart by kernels")
    for each in commands.choices.values():
        each.add_argument("--device", default="auto")
    asked = parser.parse_args()
    try:
        if asked.command == "ablate":
            from .ablation import ablate as run

            run(asked.run, asked.out, asked.suite, asked.eval_data, asked.device, asked.processes, asked.only and asked.only.split(","))
        else:
            from . import evolve_speed

            work = evolve_speed.rollout if asked.command == "rollout" else evolve_speed.tuning
            turns = tuple(int(count) for count in asked.turns.split(","))
            more = {}
            if asked.command == "tune":
                more = {"history": asked.history, "room": asked.room and asked.room * 1e9, "profile": asked.profile}
                more |= {"compiled": False} if asked.eager else {}
            told = work(asked.model, asked.random, asked.count, turns, asked.device, partial(print, flush=True), **more)
            if asked.json:
                asked.json.write_text(json.dumps(told, indent=1) + "\n")
    except EvoStreamingError as error:
        sys.exit(f"bench_evolve: {error}")


if __name__ == "__main__":
    main()
