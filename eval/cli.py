"""`evostreaming eval`, `score` and `episodes`. The last two are files in, numbers out, and need no model, no GPU and no torch."""

import json as json_format
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..engine.errors import ArgumentError, EvoStreamingError

app = typer.Typer(no_args_is_help=True, add_completion=False)


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


class Baseline(StrEnum):
    vanilla = "vanilla"
    simplestream = "simplestream"


def parse_judge(value: str):
    if value not in ("lexical", "llm") and not value.startswith("local:"):
        raise typer.BadParameter(f"{value!r} is none of lexical, llm, local:DIR")
    return value


def parse_shards(value: str):
    number, _, count = value.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise typer.BadParameter(f"{value!r}; give which part of how many, 1/4 to 4/4")
    return value


def parse_part(value):
    """`"2/4"` -> `(2, 4)`."""
    number, _, count = value.partition("/")
    return int(number), int(count)


def parse_fps(value: float | None):
    from .episodes import MAX_FPS, MIN_FPS

    if value is not None and not MIN_FPS <= value <= MAX_FPS:  # nan, too, which an older typer's min and max let pass
        raise typer.BadParameter(f"{value:g} is not in the range {MIN_FPS:g} to {MAX_FPS:g}")
    return value


Fps = Annotated[float | None, typer.Option(callback=parse_fps, help="frames a second, 0.5 to 2 [default: the benchmark's own, mostly 0.5]")]
Judge = Annotated[
    str, typer.Option(callback=parse_judge, metavar="lexical|llm|local:DIR", help="who judges free text: its words, a server, a checkpoint")
]
JudgeUrl = Annotated[str | None, typer.Option(help="base address of an OpenAI-compatible server, http://HOST/v1")]
JudgeModel = Annotated[str, typer.Option(help="model id to ask there")]
DEFAULT_JUDGE = "Qwen3-VL-235B-A22B-Instruct"


@app.command()
def score(
    episodes: Annotated[Path, typer.Argument(help="episodes, JSONL")],
    traces: Annotated[Path, typer.Argument(help="what a run did on them, JSONL")],
    judge: Judge = "lexical",
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = DEFAULT_JUDGE,
    judge_cache: Annotated[Path | None, typer.Option(help="verdicts of the judge, JSONL [default: TRACES.judge.jsonl]")] = None,
    against: Annotated[
        Path | None, typer.Option(help="for livesports3k and infstreams: traces of another run, or another model's published texts, JSONL")
    ] = None,
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
        card = scorecard(
            episodes, traces, text_judge, Settings(matching=matching.value, clock=clock.value), profile.value, allow_partial, against
        )
    except EvoStreamingError as error:
        raise exit_for(error) from None
    if json:
        typer.echo(json_format.dumps(card, ensure_ascii=False, allow_nan=False))
    else:
        print_scorecard(card)
    _warn(card, text_judge)


@app.command()
def episodes(
    suite: Annotated[str, typer.Argument(help="name of the benchmark, such as ovobench")],
    data: Annotated[Path, typer.Argument(help="the annotation file or folder that you downloaded")],
    out: Annotated[Path, typer.Argument(help="where to write the episodes, JSONL")],
    fps: Fps = None,
):
    """Turn the annotation of a benchmark into episodes."""
    from .episodes import write_episodes
    from .suites.catalog import load_suite, read_suite

    try:
        made = read_suite(load_suite(suite), data, fps)
        write_episodes(out, made)
    except EvoStreamingError as error:
        raise exit_for(error) from None
    except OSError as error:
        typer.echo(f"error: {out} cannot be written: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"{len(made)} episodes, {len({e.video for e in made})} videos -> {out}")


@app.command("eval")
def evaluate(
    suite: Annotated[str, typer.Argument(help="name of a benchmark, such as ovobench or world, or a file of episodes, JSONL")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="the run's folder; the same command goes on where a killed run stopped")],
    data: Annotated[Path | None, typer.Option(metavar="DIR", help="the folder with the benchmark's annotation and videos")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="'tiny' (built in) or a Hugging Face checkpoint folder")] = "tiny",
    adapter: Annotated[Path | None, typer.Option(help="a PEFT LoRA folder, merged at load")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first episodes")] = None,
    fps: Fps = None,
    baseline: Annotated[list[Baseline] | None, typer.Option(help="also run: vanilla, without --adapter; simplestream")] = None,
    timed: Annotated[bool, typer.Option("--timed", help="one turn at a time, with latencies, for score --clock wall; much slower")] = False,
    shards: Annotated[
        str, typer.Option(callback=parse_shards, metavar="K/N", help="only this part, beside others in the same RUN")
    ] = "1/1",
    gpus: Annotated[int, typer.Option(min=1, help="GPUs of this machine to use, one engine each")] = 1,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="one engine a GPU of a Ray cluster: local, auto or HOST:PORT")] = None,
    device: Annotated[str, typer.Option(help="cuda, cuda:1, cpu, or auto: the GPU if there is one")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: bfloat16 on a GPU, float32 on the CPU")] = "auto",
    quantization: Annotated[str | None, typer.Option(help="fp8, for most products, on a GPU that has it")] = None,
    streams: Annotated[int, typer.Option(min=2, help="streams that an engine holds at once")] = 16,
    max_tokens: Annotated[int, typer.Option(min=128, help="context kept for a stream")] = 16384,
    tokens_per_frame: Annotated[int | None, typer.Option(min=1, help="visual tokens a frame may cost")] = None,
    gate: Annotated[str, typer.Option(help="greedy, softmax or pair")] = "softmax",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="speak from this probability on")] = 0.5,
    refractory: Annotated[int, typer.Option(min=0, help="turns of silence after a reply")] = 0,
    judge: Judge = "lexical",
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = DEFAULT_JUDGE,
):
    """Run a benchmark on a model: every video streamed once, every episode kept at once, scores and a report at the end."""
    from .evaluate import Request, run_and_score
    from .sweep_model import Model

    wanted = Model(
        model, adapter and str(adapter), device, dtype, quantization, streams, max_tokens, tokens_per_frame, (gate, threshold, refractory)
    )  # fmt: skip
    try:
        text_judge = _judge(judge, judge_url, judge_model, out / "traces.jsonl.judge.jsonl")
        request = Request(suite, data, out, wanted, [b.value for b in baseline or []], limit, fps, parse_part(shards), ray, gpus, timed)
        runs = run_and_score(request, text_judge, typer.echo)
    except EvoStreamingError as error:
        raise exit_for(error) from None
    except KeyboardInterrupt:
        typer.echo("stopped by Ctrl-C; finished episodes are kept, run the same command again to go on", err=True)
        raise typer.Exit(130) from None
    for card in runs:
        _warn(card, text_judge)


def _warn(card, text_judge):
    for problem in card["header"]["invalid"] + card["header"]["incomplete"]:
        typer.echo(f"warning: {problem}", err=True)
    if getattr(text_judge, "last_error", None):
        typer.echo(f"warning: judge: {text_judge.last_error}", err=True)


def exit_for(error):
    """Say what the error says and end with its exit code: 2 bad arguments, 3 bad input, 4 model cannot be loaded, 1 anything else."""
    typer.echo(f"error: {error}", err=True)
    return typer.Exit(error.exit_code)


def _judge(kind, url, model, cache):
    if kind == "lexical":
        from .judges import LexicalJudge

        return LexicalJudge()
    if kind != "llm":
        from .local_judge import LocalJudge

        return LocalJudge(kind.removeprefix("local:"), cache)
    from .llm_judge import LLMJudge

    if url is None:
        raise ArgumentError("--judge llm needs --judge-url, the base address of an OpenAI-compatible server, http://HOST/v1")
    return LLMJudge(url, model, cache)
