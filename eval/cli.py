"""`evostreaming score` and `evostreaming episodes`: files in, numbers out. Neither needs a model, a GPU or torch."""

import json as json_format
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..engine.errors import ArgumentError, EvoStreamingError
from .errors import SchemaError

app = typer.Typer(no_args_is_help=True, add_completion=False)


class JudgeKind(StrEnum):
    lexical = "lexical"
    llm = "llm"


class Profile(StrEnum):
    paper = "paper"
    event = "event"
    figure = "figure"


class Matching(StrEnum):
    max = "max"
    one2one = "one2one"


class Clock(StrEnum):
    video = "video"
    wall = "wall"


@app.command()
def score(
    episodes: Annotated[Path, typer.Argument(help="episodes, JSONL")],
    traces: Annotated[Path, typer.Argument(help="what a run did on them, JSONL")],
    judge: Annotated[JudgeKind, typer.Option(help="who judges free text")] = JudgeKind.lexical,
    judge_url: Annotated[str | None, typer.Option(help="base address of an OpenAI-compatible server, http://HOST/v1")] = None,
    judge_model: Annotated[str, typer.Option(help="model id to ask there")] = "Qwen3-VL-235B-A22B-Instruct",
    judge_cache: Annotated[Path | None, typer.Option(help="verdicts of the judge, JSONL [default: TRACES.judge.jsonl]")] = None,
    profile: Annotated[Profile, typer.Option(help="the score to lead with")] = Profile.paper,
    matching: Annotated[Matching, typer.Option(help="in S, may one response serve several targets (max) or one")] = Matching.max,
    clock: Annotated[Clock, typer.Option(help="a response counts at its frame, or when its first token is there")] = Clock.video,
    allow_partial: Annotated[bool, typer.Option("--allow-partial", help="give overall scores although something is missing")] = False,
    json: Annotated[bool, typer.Option("--json", help="print everything as one JSON object")] = False,
):
    """Score what a run said, when and how often. Scores depend on the files alone."""
    from .scorecard import scorecard
    from .settings import Settings
    from .tables import print_scorecard

    try:
        text_judge = _judge(judge, judge_url, judge_model, judge_cache or traces.with_name(traces.name + ".judge.jsonl"))
        card = scorecard(episodes, traces, text_judge, Settings(matching=matching.value, clock=clock.value), profile.value, allow_partial)
    except EvoStreamingError as error:
        raise _exit(error) from None
    if json:
        typer.echo(json_format.dumps(card, ensure_ascii=False, allow_nan=False))
    else:
        print_scorecard(card)
    for problem in card["header"]["invalid"] + card["header"]["incomplete"]:
        typer.echo(f"warning: {problem}", err=True)
    if getattr(text_judge, "last_error", None):
        typer.echo(f"warning: judge: {text_judge.last_error}", err=True)


@app.command()
def episodes(
    suite: Annotated[str, typer.Argument(help="name of the benchmark, such as ovobench")],
    data: Annotated[Path, typer.Argument(help="the annotation file or folder that you downloaded")],
    out: Annotated[Path, typer.Argument(help="where to write the episodes, JSONL")],
    fps: Annotated[float, typer.Option(help="frames a second, 0.5 to 2")] = 0.5,
):
    """Turn the annotation of a benchmark into episodes."""
    from .episodes import write_episodes
    from .suites.catalog import load_suite

    try:
        made = load_suite(suite).read(data, fps=fps)
        write_episodes(out, made)
    except EvoStreamingError as error:
        raise _exit(error) from None
    except OSError as error:
        typer.echo(f"error: {out} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{len(made)} episodes, {len({e.video for e in made})} videos -> {out}")


def _exit(error):
    """Say it and choose the exit code: 2 bad arguments, 3 bad input file, 1 anything else."""
    typer.echo(f"error: {error}", err=True)
    return typer.Exit(2 if isinstance(error, ArgumentError) else 3 if isinstance(error, SchemaError) else 1)


def _judge(kind, url, model, cache):
    if kind is JudgeKind.lexical:
        from .judges import LexicalJudge

        return LexicalJudge()
    from .llm_judge import LLMJudge

    if url is None:
        raise ArgumentError("--judge llm needs --judge-url, the base address of an OpenAI-compatible server, http://HOST/v1")
    return LLMJudge(url, model, cache)
