"""Where an adapter comes from: `provenance.json` beside it, enough to make it again and to tell whether it still is what was made.

`python -m evostreaming.evolve.provenance RUN/round_1/adapter DIR` copies an adapter for others: without the state of its training, and with
the name of its base model instead of a path of this machine.
"""

import argparse
import json
import shlex
import shutil
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from ..engine.config import read_json
from ..engine.streaming_format import FILE as FORMAT
from ..eval.journal import write_whole
from ..eval.scorecard import sha256
from ..eval.sweep_model import engine_commit, fingerprint

FILE, CONFIG, WEIGHTS = "provenance.json", "adapter_config.json", "adapter_model.safetensors"


def write_provenance(folder, model, directory, settings, number, prompts, trajectories):
    """Write the file into `folder`, an adapter's of round `number`. model: the base as the user named it, which lies in `directory`;
    trajectories: the file the adapter was tuned on."""
    folder, trajectories = Path(folder), Path(trajectories)
    about = {
        "command": command(sys.argv),
        "model": model,
        "model_sha256": fingerprint(directory),
        "round": number,
        "settings": asdict(settings),
        "prompts_sha": prompts.sha,
        "trajectories": trajectories.read_bytes().count(b"\n"),
        "trajectories_sha256": sha256(trajectories),
        "adapter_sha256": sha256(folder / WEIGHTS),
        "commit": engine_commit(),
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    write_whole(folder / FILE, pretty(about))


def command(words):
    """What was typed, without the folder that the program lies in."""
    program = Path(words[0])
    name = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return shlex.join([*name, *words[1:]])


def publish(adapter, out):
    """Copy what belongs to an adapter into the folder `out`. Raises CheckpointError when it is not whole."""
    adapter, out = Path(adapter), Path(out)
    about = read_json(adapter, FILE, "where the adapter comes from")
    config = read_json(adapter, CONFIG, "rank and scale of the adapter") | {"base_model_name_or_path": about["model"]}
    out.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS, FORMAT, FILE):
        shutil.copyfile(adapter / name, out / name)
    write_whole(out / CONFIG, pretty(config))


def pretty(value):
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    publish(asked.adapter, asked.out)
