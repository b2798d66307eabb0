"""`evostreaming evolve`: from a folder of videos and a checkpoint to an adapter that knows when to speak."""

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..engine.errors import ArgumentError, EvoStreamingError
from ..eval.cli import exit_for

app = typer.Typer(no_args_is_help=True, add_completion=False)
Stage = Literal["classify", "questions", "relevance", "rollout", "tune"]
ROLES, TUNING, SCORES = "Roles", "Tuning", "Scores"


@app.command(
    epilog="[bold]What happens[/bold], once a round\n\n"
    "1 classify: each video gets one of five kinds of question. 2 questions: the model asks them.\n"
    "3 relevance: which segments each question needs. 4 rollout: the model watches and answers there,\n"
    "from what it has seen so far; everything else becomes silence. 5 tune: a LoRA.\n\n"
    "[bold]Examples[/bold]\n\n"
    "python -m evostreaming.tiny.pool clips --clips 60\n\n"
    "evostreaming evolve --videos clips --out run --samples 200\n\n"
    "evostreaming run door.mp4 --adapter run/round_1/adapter -q 'Tell me when it opens.'\n\n"
    "evostreaming evolve -m ~/Qwen2.5-VL-7B-Instruct --videos clips --out run --rounds 2 --ray local\n\n"
    "evostreaming evolve --videos clips --out run --stage questions && less run/round_1/questions.jsonl\n\n"
    "torchrun --nproc-per-node 8 -m evostreaming evolve --videos clips --out run --stage tune",
)
def evolve(
    videos: Annotated[Path, typer.Option(metavar="DIR", help="Folder of videos, searched with all folders below it.", file_okay=False)],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run's folder; the same command goes on where a killed run stopped.")],
    model: Annotated[str, typer.Option("--model", "-m", help="'tiny' (built in) or a Hugging Face checkpoint folder.")] = "tiny",
    samples: Annotated[int, typer.Option(min=1, help="Trajectories a round.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, max=9, help="Each starts from the model that the one before tuned.")] = 1,
    stage: Annotated[Stage | None, typer.Option(help="Stop after this stage; what it needs from those before is done first.")] = None,
    seed: Annotated[int, typer.Option(help="Of questions, times and tuning.")] = 0,
    device: Annotated[str, typer.Option(help="cuda, cuda:1, cpu, or auto: the GPU if there is one.")] = "auto",
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Stages 1 to 4 on one engine a GPU: local, auto or HOST:PORT.")] = None,
    as_object: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object.")] = False,
    fps: Annotated[float, typer.Option(min=0.001, help="Frames watched in a second of video.", rich_help_panel=ROLES)] = 0.5,
    tokens_per_frame: Annotated[int, typer.Option(min=1, help="Visual tokens a frame may cost.", rich_help_panel=ROLES)] = 128,
    mix: Annotated[
        float, typer.Option(min=0, max=1, help="Share of videos whose kind of question is drawn, not chosen.", rich_help_panel=ROLES)
    ] = 0.0,
    questions: Annotated[int, typer.Option(min=1, help="Asked of each video.", rich_help_panel=ROLES)] = 4,
    choices: Annotated[
        float, typer.Option(min=0, max=1, help="Share of questions answered at once that get lettered options.", rich_help_panel=ROLES)
    ] = 0.5,
    segment: Annotated[float, typer.Option(help="Seconds of a segment whose relevance is decided.", rich_help_panel=ROLES)] = 4.0,
    prompts: Annotated[str, typer.Option(help="Words of the roles: v1, or a JSON file like it.", rich_help_panel=ROLES)] = "v1",
    window: Annotated[int, typer.Option(min=0, help="Silent turns kept round a reply; 0 keeps all.", rich_help_panel=ROLES)] = 8,
    consistency: Annotated[bool, typer.Option(help="Refuse replies that other evidence does not confirm.", rich_help_panel=ROLES)] = True,
    quiet_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of streams whose event never comes.", rich_help_panel=ROLES)
    ] = 0.1,
    offline_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of plain questions after the video, rehearsed.", rich_help_panel=ROLES)
    ] = 0.1,
    batch: Annotated[int, typer.Option(min=1, help="Videos watched side by side.", rich_help_panel=ROLES)] = 8,
    history: Annotated[
        Literal["full", "replies"],
        typer.Option(help="What the tuned model keeps of silent turns: all, or their frames only.", rich_help_panel=TUNING),
    ] = "full",
    loss_balance: Annotated[
        Literal["none", "inverse", "focal"],
        typer.Option(help="Weight of silence against speech: none (the paper), by inverse share, focal.", rich_help_panel=TUNING),
    ] = "none",
    rate: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=TUNING)] = 1e-4,
    epochs: Annotated[int, typer.Option(min=1, help="Times each trajectory is learned from.", rich_help_panel=TUNING)] = 1,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Score with RealStreamEval before and after each round.", rich_help_panel=SCORES)
    ] = False,
    suite: Annotated[str, typer.Option(help="Benchmark of --evaluate.", rich_help_panel=SCORES)] = "world",
    eval_data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Its folder; implies --evaluate [default: made for world].", rich_help_panel=SCORES)
    ] = None,
):
    """Teach a model when to speak: it asks, annotates, rolls out and tunes itself on plain videos. No labels, no other model.

    RUN gets a folder a round with every stage's output as JSON lines, trajectories.jsonl, the adapter, and report.html over all.
    Exit codes: 0 done, 1 the run failed, 2 bad arguments, 3 bad input, 4 model cannot be loaded, 130 stopped by Ctrl-C.
    """
    from .loop import Evolution
    from .progress import Bars
    from .settings import Settings
    from .tables import figures, print_figures
    from .tune import Tuning

    try:
        tuning = Tuning(loss_balance=loss_balance, rate=rate, epochs=epochs, seed=seed)
        settings = Settings(
            samples=samples, rounds=rounds, seed=seed, fps=fps, tokens_per_frame=tokens_per_frame, mix=mix, questions=questions,
            choices=choices, segment_s=segment, window=window, consistency=consistency, quiet_share=quiet_share,
            offline_share=offline_share, batch=batch, history=history, prompts=prompts, tuning=tuning,
        )  # fmt: skip
        with Bars() as bars:
            scores = None
            if evaluate or eval_data:
                from .scores import Scores

                scores = Scores(model, out, suite, eval_data, device, tokens_per_frame, bars.aside)
            Evolution(model, videos, out, settings, device, ray, bars, scores).run(stage)
        if int(os.environ.get("RANK", 0)) == 0:
            told = figures(out, bars.seconds)
            if as_object:
                typer.echo(json.dumps(told, ensure_ascii=False, allow_nan=False))
            else:
                print_figures(told)
            from .report import write_report

            typer.echo(f"report: {write_report(out)}", err=True)
    except EvoStreamingError as error:
        raise exit_for(error) from None
    except OSError as error:
        raise exit_for(ArgumentError(f"{error.filename or out}: {error.strerror or error}")) from None
    except KeyboardInterrupt:
        typer.echo("stopped by Ctrl-C; finished rows are kept, run the same command again to go on", err=True)
        raise typer.Exit(130) from None
