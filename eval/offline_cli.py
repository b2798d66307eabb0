"""`evostreaming offline`: multiple choice on whole videos, to show what tuning for streams costs."""

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from ..engine.errors import EvoStreamingError
from .cli import exit_for

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def offline(
    suite: Annotated[str, typer.Argument(help="videomme, mvbench, mlvu, mlvu_test, longvideobench, egoschema, lvbench or livesports3k")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="the folder with the annotation and videos that you downloaded")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="the run's folder; the same command goes on where a killed run stopped")],
    model: Annotated[str, typer.Option("--model", "-m", help="'tiny' (built in) or a Hugging Face checkpoint folder")] = "tiny",
    adapter: Annotated[Path | None, typer.Option(help="a PEFT LoRA folder, merged at load")] = None,
    frames: Annotated[int, typer.Option(min=1, help="frames shown of each video, evenly apart")] = 32,
    limit: Annotated[int | None, typer.Option(min=1, help="only the first questions")] = None,
    device: Annotated[str, typer.Option(help="cuda, cuda:1, cpu, or auto: the GPU if there is one")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, or auto: bfloat16 on a GPU, float32 on the CPU")] = "auto",
    tokens_per_frame: Annotated[int | None, typer.Option(min=1, help="visual tokens a frame may cost")] = None,
    max_tokens: Annotated[int, typer.Option(min=128, help="context kept; the frames of a video must fit")] = 16384,
    json: Annotated[bool, typer.Option("--json", help="print the scores as one JSON object")] = False,
):
    """Answer multiple choice on whole videos, by letter logits and by generation, scored apart."""
    from rich.console import Console
    from rich.progress import track

    from .offline import run_offline
    from .sweep_model import Model

    notes = Console(stderr=True)
    wanted = Model(
        model, adapter and str(adapter), device=device, dtype=dtype, streams=4, max_tokens=max_tokens, tokens_per_frame=tokens_per_frame
    )
    try:
        card = run_offline(suite, data, out, wanted, frames, limit, lambda rows: track(rows, "questions", console=notes, total=None))
    except EvoStreamingError as error:
        raise exit_for(error) from None
    for name, why in card["failed"].items():
        typer.echo(f"not run: {name}: {why}", err=True)
    if json:
        typer.echo(json_format.dumps(card, ensure_ascii=False, allow_nan=False))
    else:
        print_scores(card, Console())


def print_scores(card, console):
    """One row a task, one column a way of answering."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    ways = [(way, card[way]) for way in ("logits", "generation")]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(f"{card['suite']}, {card['frames']} frames", no_wrap=True)
    for way, _ in ways:
        table.add_column(f"by {way}", justify="right", no_wrap=True)
    show = lambda value: "-" if value is None else f"{value:.1f}"  # noqa: E731
    for task in card["logits"]["tasks"]:
        table.add_row(task, *(show(found["tasks"][task]) for _, found in ways))
    table.add_section()
    table.add_row("overall", *(show(found["overall"]) for _, found in ways), style="bold")
    table.add_row("95 %", *(f"{found['ci95'][0]:.1f}-{found['ci95'][1]:.1f}" if found["ci95"] else "-" for _, found in ways))
    table.add_row("chance", *(show(found["chance"]) for _, found in ways))
    table.add_row("replies with a letter", *(show(None if f["answered"] is None else 100 * f["answered"]) for _, f in ways))
    table.add_row("questions", *(found["items"] for _, found in ways))
    console.print(table)
