"""A run's directory read back: settings, episodes, traces, scores."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .episodes import Episode, read_episodes
from .errors import SchemaError
from .journal import write_whole
from .judges import LexicalJudge
from .records import Record, read_json, read_jsonl
from .run_folder import EPISODES, SCORES, SETTINGS, TRACES
from .scorecard import scorecard, sha256
from .traces import Trace, read_traces

SKIPPED = "skipped.jsonl"


@dataclass(frozen=True)
class Run:
    """`settings`: what `run.json` says, or nothing; `card`: the scorecard; `skipped`: rows of the episodes that could not be run."""

    path: Path
    settings: dict
    episodes: list[Episode]
    traces: dict[str, Trace]
    card: dict
    skipped: list[dict]

    @property
    def name(self):
        return self.card["header"]["run_id"]


def read_run(path):
    """The `Run` in the folder `path`.

    Its `scores.json` is used if it was made from these very files, and made with the lexical judge if not. Raises SchemaError, RunError.
    """
    path = Path(path)
    if not path.is_dir():
        raise SchemaError(path, "", "", f"is not the folder of a run: it would hold {EPISODES} and {TRACES}")
    episodes = read_episodes(path / EPISODES)
    settings = Record(read_json(path / SETTINGS), path / SETTINGS, "").data if (path / SETTINGS).exists() else {}
    skipped = [record.data for record in read_jsonl(path / SKIPPED)] if (path / SKIPPED).exists() else []
    return Run(path, settings, episodes, read_traces(path / TRACES, episodes), scores(path), skipped)


def scores(path):
    """The scorecard of a run's folder; written to `scores.json` when there is none of these files yet."""
    hashes = {"episodes_sha256": sha256(path / EPISODES), "traces_sha256": sha256(path / TRACES)}
    with suppress(SchemaError):  # a file that is missing or damaged was not made from these
        card = Record(read_json(path / SCORES), path / SCORES, "")
        if hashes.items() <= card.record("header").data.items():
            return card.data
    card = scorecard(path / EPISODES, path / TRACES, LexicalJudge())
    data = (json.dumps(card, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "replace")
    write_whole(path / SCORES, data)
    # What was just written and what is read later must be the same: JSON has no tuples and no number keys.
    return json.loads(data)
