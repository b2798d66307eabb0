"""Episodes and traces in a line or two, so that the tests read like the examples of the specification."""

from pathlib import Path

import pytest

from evostreaming.eval.discretize import grid
from evostreaming.eval.episodes import Episode, Query, Target
from evostreaming.eval.traces import Trace, Turn, injections


def build_episode(name="e", regime="FAR", targets=((20, 20, 30),), t_q=0.0, fps=0.5, t_end=38.0, form="text", t_start=0.0, **kw):
    """`targets`: (t_star, a, b[, answer]). The default is the episode of the worked examples: 20 turns, one target at turn 10."""
    options = kw.pop("options", ("cat", "dog", "owl", "fox") if form == "letter" else ())
    default = {"letter": "B", "int": "3", "yesno": "yes", "text": "the kettle boils"}[form]
    return Episode(
        name, kw.pop("suite", "test"), kw.pop("task", regime), regime, kw.pop("video", f"{name}.mp4"), t_start, t_end, fps,
        (Query("q", t_q, "What now?", form, options),),
        tuple(Target(f"g{i}", "q", x[0], (x[1], x[2]), x[3] if len(x) > 3 else default) for i, x in enumerate(targets)), kw,
    )  # fmt: skip


def build_trace(episode, said, run_id="run", **turn):
    """`said`: `{turn: text}`; every other turn is silent."""
    frames = grid(episode)
    asked = injections(episode, frames)
    return Trace(
        episode.episode_id, run_id,
        tuple(
            Turn(k, frames.time(k), asked.get(k, ()), said.get(k, "</silence>"), said.get(k), k not in said, 1, **turn)
            for k in range(frames.n)
        ),
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_episode():
    return build_episode


@pytest.fixture(scope="session")
def make_trace():
    return build_trace


@pytest.fixture(scope="session")
def data_dir():
    """The benchmark files beside the checkout; tests that need them skip without."""

    def find(name):
        path = Path(__file__).parents[2] / ".." / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"the {name} files are not beside the checkout (../shared/data/{name})")
        return path

    return find
