"""A run's directory: what was asked of whom (`run.json`, `episodes.jsonl`), its journals, at last `traces.jsonl`, `scores.json`.

`speed.json` tells what the last command that ran anything took, and is no part of the run.
"""

import hashlib
import json
import os
from pathlib import Path

from .episodes import read_episodes, write_episodes
from .errors import MissingVideos, RunError
from .journal import read_lines, said_what, untouched, write_whole
from .records import read_json

SETTINGS, EPISODES, TRACES, SCORES = "run.json", "episodes.jsonl", "traces.jsonl", "scores.json"
BESIDE = ("", "data", "videos")  # where below the data folder the videos of a benchmark may lie


class RunFolder:
    """`path` once it is known to hold this very run: made now, or found with equal settings or without any episode."""

    def __init__(self, path, episodes, settings):
        """settings: JSON values that a run must not mix. Raises RunError that names what differs, SchemaError for duplicate ids."""
        self.path = Path(path)
        part = self.path / f"{EPISODES}.{os.getpid()}.part"
        with said_what(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            with said_what(part):
                write_episodes(part, episodes)
            self.episodes = read_episodes(part)
            # Through JSON and back, so that tuples and lists compare alike.
            self.settings = json.loads(json.dumps({**settings, "episodes_sha256": hashlib.sha256(part.read_bytes()).hexdigest()}))
            # Settings that no episode was ever run with, say those of a model that could not be loaded, bind nobody.
            used = not all(map(untouched, self.path.glob("journal*.jsonl")))
            if used and (self.path / SETTINGS).exists():
                self._check(read_json(self.path / SETTINGS))
            else:
                if used:
                    raise RunError(f"{self.path} holds episodes of a run without its {SETTINGS}; give another --out")
                with said_what(self.path):
                    os.replace(part, self.path / EPISODES)
                write_whole(self.path / SETTINGS, (json.dumps(self.settings, indent=1) + "\n").encode())
        finally:
            part.unlink(missing_ok=True)

    @property
    def run_id(self):
        """The same for the same settings, so that a run that is resumed writes the same traces."""
        digest = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()
        return f"{self.settings['suite']}-{self.settings['model']}-{digest[:10]}"

    def journal(self, shard):
        """Path of the journal of `shard`, (number from 1, of how many)."""
        return self._part("journal", ".jsonl", shard)

    def speed(self, shard):
        """Path of what it took to run `shard`, JSON."""
        return self._part("speed", ".json", shard)

    def finished(self):
        """`{episode_id: line}` of all journals."""
        lines = {}
        for path in sorted(self.path.glob("journal*.jsonl")):
            lines = {**read_lines(path), **lines}
        return lines

    def gather(self):
        """Write the traces in the order of the episodes and return their path; None while some are missing."""
        lines = self.finished()
        if any(episode.episode_id not in lines for episode in self.episodes):
            return None
        write_whole(self.path / TRACES, b"".join(lines[episode.episode_id] for episode in self.episodes))
        return self.path / TRACES

    def _part(self, name, suffix, shard):
        number, count = shard
        return self.path / (f"{name}{suffix}" if count == 1 else f"{name}-{number}-of-{count}{suffix}")

    def _check(self, known):
        names = sorted({*known, *self.settings})
        other = [f"{n} is {known.get(n)!r} there, now {self.settings.get(n)!r}" for n in names if known.get(n) != self.settings.get(n)]
        if other:
            raise RunError(f"{self.path} belongs to another run: {'; '.join(other)}. Give another --out, or the same command as then.")


def find_videos(data, episodes):
    """`{video: path}` of every video below the folder `data` (or beside the file). Raises MissingVideos with all that are not there."""
    data = Path(data)
    roots = [(data.parent if data.is_file() else data) / name for name in BESIDE]
    found = {
        video: next((str(root / video) for root in roots if (root / video).exists()), None)
        for video in dict.fromkeys(episode.video for episode in episodes)
    }
    if missing := [video for video, path in found.items() if path is None]:
        raise MissingVideos(missing, roots[:1])
    return found
