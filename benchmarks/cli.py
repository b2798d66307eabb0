"""`evostreaming bench`: how fast a model's step is on this machine, beside its floor and its peers."""

import json
from contextlib import contextmanager
from pathlib import Path
from signal import SIGTERM, default_int_handler, signal
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from evostreaming.engine.errors import ArgumentError, CheckpointError, EvoStreamingError

app = typer.Typer(no_args_is_help=True, add_completion=False)


def counts(value, option):
    """`"1,8,64"` -> (1, 8, 64)."""
    try:
        numbers = tuple(int(part) for part in str(value).split(","))
    except ValueError:
        numbers = (0,)
    if min(numbers) < 1:
        raise typer.BadParameter(f"{value!r}; give whole numbers from 1 on, as in {option} 1,8", param_hint=option)
    return numbers


@app.command(
    epilog="[bold]Examples[/bold]\n\n"
    "evostreaming bench --steps 20\n\n"
    "evostreaming bench --random qwen2.5-vl-7b --peers --context 8192,4096 --streams 1,8 --tokens-per-frame 256,128\n\n"
    "evostreaming bench --random qwen3-vl-8b --context 4096,1024,16384,65536 --streams 1,4,16,64\n\n"
    "evostreaming bench -m ~/Qwen2.5-VL-7B-Instruct --scan --long-stream 14400\n\n"
    "evostreaming bench backbones --steps 50\n\n"
    "evostreaming bench video --streams 8,1,64"
)
def bench(
    what: Annotated[
        Literal["step", "backbones", "video"],
        typer.Argument(help="step: a model; backbones: all published sizes; video: decoding, --streams files side by side."),
    ] = "step",
    model: Annotated[str, typer.Option("--model", "-m", help="'tiny' (built in) or a Hugging Face checkpoint folder.")] = "tiny",
    random: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Random weights of a published size instead of a checkpoint, e.g. qwen2.5-vl-7b.")
    ] = None,
    context: Annotated[
        str, typer.Option(metavar="N,...", help="Tokens in front of the step. The first value of each list is the base row's.")
    ] = "8192",
    streams: Annotated[str, typer.Option(metavar="N,...", help="Streams in a batch.")] = "1",
    tokens_per_frame: Annotated[
        str | None, typer.Option(metavar="N,...", help="Visual tokens of a frame; a 448 x 448 frame without it.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of the base row; further rows take at most 50.")] = 100,
    peers: Annotated[bool, typer.Option("--peers", help="Also time what people run today, on the same work.")] = False,
    scan: Annotated[bool, typer.Option("--scan", help="Also time `scan` against stepping.")] = False,
    long_stream: Annotated[
        int | None, typer.Option(metavar="FRAMES", min=20, help="Also watch this many frames through a window of --context tokens.")
    ] = None,
    quantization: Annotated[Literal["fp8"] | None, typer.Option(help="Weights of the engine in 8 bits.")] = None,
    device: Annotated[str, typer.Option(help="cuda, cuda:1, cpu, or auto: the GPU if there is one.")] = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"], typer.Option(help="auto: bfloat16 on a GPU, float32 on the CPU.")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="Folder for bench.json, bench.md and bench.png.", file_okay=False)] = Path("bench"),
    as_object: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object instead of tables.")] = False,
):
    """Time the step of a model: per stage, against its floor, along context, streams and tokens a frame, and beside its peers.

    Saved after every part. A row or peer that cannot be measured is listed with the reason.
    """
    if what == "video":
        return bench_video(counts(streams, "--streams"), device, out, as_object)
    rows = counts(context, "--context"), counts(streams, "--streams")
    rows += ((None,) if tokens_per_frame is None else counts(tokens_per_frame, "--tokens-per-frame"),)
    from .backbones import measure_backbones, summary
    from .bench import Bench, Rows
    from .bench_report import markdown
    from .subject import Subject

    console = Console(stderr=True)
    signal(SIGTERM, default_int_handler)  # whoever ends it early gets what was measured so far
    try:
        if what == "backbones":
            make_folder(out)
            load = lambda name: Subject.load(None, name, device, dtype, quantization)  # noqa: E731
            with progress_bar(console) as progress:
                result = measure_backbones(Rows(*rows), steps, load, out, progress)
            text, files, interrupted = summary(result), "backbones.json, backbones.md", result[-1]["interrupted"]
            nothing = not any(model["rows"] for model in result)
        else:
            with console.status("loading the model"):
                subject = Subject.load(model, random, device, dtype, quantization, peers or long_stream is not None)
                make_folder(out)
                run = Bench(subject, Rows(*rows), steps, out)
            with progress_bar(console) as progress:
                result = run.run(run.parts(peers, scan, long_stream), progress)
            text, files, interrupted = markdown(result), "bench.json, bench.md, bench.png", result["interrupted"]
            nothing = not result["rows"]
    except EvoStreamingError as error:
        console.print(f"evostreaming: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, ArgumentError) else 4 if isinstance(error, CheckpointError) else 1) from None
    print(json.dumps(result) if as_object else text, flush=True)
    console.print(f"wrote {out}: {files}", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(130 if interrupted else 1 if nothing else 0)


def make_folder(out):
    """Say that results have nowhere to go before anything is measured. Raises typer.BadParameter."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise typer.BadParameter(f"{out} cannot be made, {error.strerror}", param_hint="--out") from error


def bench_video(files, device, out, as_object):
    """Time every decoder that can be imported; one line a row on stderr while it runs."""
    import torch

    from . import bench_video as video

    make_folder(out)
    console = Console(stderr=True)
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    table = video.rows(("h264", "hevc", "vp9"), (720, 360, 1080, 2160), (None, 0.5, 1, 2), files)
    say = lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)  # noqa: E731
    results = video.run(out, table, video.SECONDS, device, say)
    print(json.dumps(results) if as_object else video.markdown(results))
    console.print(f"wrote {out}/video.json", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(console):
    """`progress(number, title, fraction, *said)`: a bar for the part under way, and lines said; without a terminal, a line a part too."""
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=1.0)

        def progress(number, name, fraction, *said):
            if fraction == 0 and not console.is_terminal:
                said = (f"{number + 1}. {name}", *said)
            for line in said:
                console.print(line, markup=False, highlight=False, soft_wrap=True)
            bar.update(task, description=f"{number + 1}. {name}", completed=fraction)

        yield progress
