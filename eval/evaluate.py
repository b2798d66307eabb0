"""`evostreaming eval` from end to end: episodes, videos, the run and its baselines, scores, report."""

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from ..engine.device import choose_device, choose_dtype
from ..engine.errors import ArgumentError
from .episodes import read_episodes
from .run_folder import RunFolder, find_videos
from .suites.catalog import load_suite, read_suite
from .sweep import score_folder, sweep
from .sweep_model import Model
from .sweep_processes import visible_gpus
from .tables import print_scorecard


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    suite: str
    data: Path | None
    out: Path
    model: Model
    baselines: list[str]
    limit: int | None = None
    fps: float | None = None
    shard: tuple[int, int] = (1, 1)
    ray: str | None = None
    gpus: int = 1
    timed: bool = False


def run_and_score(request, judge, say):
    """Run and score; returns the cards of the run and of its baselines. `say` prints a line.

    Raises ArgumentError, SchemaError, MissingVideos and RunError before anything runs, CheckpointError and CapacityError at load.
    """
    check_gpus(request)
    name, data, episodes = choose_episodes(request)
    paths = find_videos(data, episodes)
    folders = [(plan, RunFolder(plan.out, episodes, settings_of(name, plan, request.ray))) for plan in plans(request)]
    cards = []
    for plan, folder in folders:
        say(f"{plan.out}: {plan.policy}, {plan.model.name}" + (f" with {plan.model.adapter}" if plan.model.adapter else ""))
        if sweep(folder, plan.model, paths, plan.policy, request.shard, request.ray, request.gpus) is None:
            say(f"{plan.out}: part {request.shard[0]} of {request.shard[1]} is done; the last part to end scores the run")
            continue
        cards.append(score_folder(folder, judge))
        print_scorecard(cards[-1])
        for episode, why in cards[-1]["failed"].items():
            say(f"not run: {episode}: {why}")
    if cards and find_spec(f"{__package__}.report"):
        from .report import write_report

        say(f"report: {write_report(request.out, data)}")
    return cards


def check_gpus(request):
    """Raises ArgumentError when there are fewer GPUs than asked for, or another option says where to work, too."""
    if request.gpus > 1:
        if request.ray is not None:
            raise ArgumentError("--gpus and --ray both say where to work; give one of them")
        if request.model.device not in ("auto", "cuda"):
            raise ArgumentError(f"--gpus {request.gpus} takes the first GPUs of this machine; leave out --device {request.model.device}")
        visible_gpus(request.gpus)


@dataclass(frozen=True)
class Plan:
    """One of the runs that a request consists of."""

    out: Path
    model: Model
    policy: str


def plans(request):
    """The run itself, then its baselines in folders of their own below `baselines`. Raises ArgumentError."""
    stock, below = replace(request.model, adapter=None), request.out / "baselines"
    policy = "timed" if request.timed else "stream"
    made = [Plan(request.out, request.model, policy)]
    for baseline in dict.fromkeys(request.baselines):
        if baseline == "vanilla" and request.model.adapter is None:
            raise ArgumentError(
                "--baseline vanilla is the model without its adapter; give --adapter, or leave it out: the run is vanilla itself"
            )
        made.append(Plan(below / baseline, stock, policy if baseline == "vanilla" else baseline))
    return made


def choose_episodes(request):
    """(name, data folder, episodes). Raises SchemaError, ArgumentError."""
    if request.suite.endswith(".jsonl"):
        name, data, episodes = Path(request.suite).stem, request.data or Path(request.suite).parent, read_episodes(request.suite)
    else:
        name, suite, data = request.suite, load_suite(request.suite), request.data
        if data is None and not hasattr(suite, "default_data"):
            raise ArgumentError(f"--data is missing: the folder with the annotation and videos of {name}")
        data = data or suite.default_data()
        episodes = read_suite(suite, data, request.fps)
    return name, data, episodes[: request.limit]


def settings_of(suite, plan, ray=None):
    """What must be equal for a run to be gone on with. The machines of a Ray cluster choose device and dtype for themselves."""
    settings = {"suite": suite, "policy": plan.policy, **plan.model.settings()}
    if ray is None:
        device = choose_device(plan.model.device)
        settings |= {"device": device.type, "dtype": str(choose_dtype(plan.model.dtype, device)).removeprefix("torch.")}
    return settings
