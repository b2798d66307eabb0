"""`evostreaming report` and `evostreaming compare`: what runs did, as pages and tables. Neither needs a model or a GPU."""

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from ..engine.errors import EvoStreamingError
from .cli import exit_for

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="the folder of a run: episodes.jsonl, traces.jsonl")],
    data: Annotated[Path | None, typer.Option(help="folder of the videos, for frames [default: the one the run was made from]")] = None,
):
    """Write report.html, and scores.json where it is missing, into the folder of a run."""
    from .report import write_report

    try:
        typer.echo(f"wrote {write_report(run, data)}")
    except EvoStreamingError as error:
        raise exit_for(error) from None


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders of runs; the first is what the others are compared with")],
    json: Annotated[bool, typer.Option("--json", help="print everything as one JSON object")] = False,
    html: Annotated[Path | None, typer.Option(help="write a page", dir_okay=False, writable=True)] = None,
):
    """Put runs side by side: differences with 95 % intervals, paired by video."""
    from rich.console import Console

    from .compare import compare as compare_runs
    from .report_compare import print_comparison, write_comparison
    from .report_run import read_run

    try:
        found = compare_runs([read_run(run) for run in runs])
        if html is not None:
            typer.echo(f"wrote {write_comparison(found, html)}", err=True)
    except EvoStreamingError as error:
        raise exit_for(error) from None
    for warning in found["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    if json:
        typer.echo(json_format.dumps(found, ensure_ascii=False, allow_nan=False))
    else:
        print_comparison(found, Console())
