"""The command line: `evostreaming run`, `info`, `demo`, and the commands of the other rooms.

Frames seen before an error or Ctrl-C are printed and written all the same; `exits.py` has the exit codes.
"""

import json
import re
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from typer.core import TyperCommand

from . import __version__
from .benchmarks.cli import app as bench_commands
from .engine.errors import without_password
from .eval.cli import app as eval_commands
from .eval.offline_cli import app as offline_commands
from .eval.report_cli import app as report_commands
from .evolve.cli import app as evolve_commands
from .exits import exit_codes, nothing_to_lose

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_show_locals=False,
    help="Turn an open VideoLLM into a live assistant: one frame in, one decision out, silent or speak.\n\n"
    "Start with [bold]evostreaming demo[/bold]; then [bold]evostreaming run VIDEO --query 'Tell me when ...'[/bold].",
)


class PairOptions(TyperCommand):
    """Lets `--at` take two words, which typer has no list type for: they travel as one, `SECONDS TEXT`."""

    def parse_args(self, ctx, args):
        joined, words = [], iter(args)
        for word in words:
            joined.append(word)
            if word == "--":
                joined.extend(words)
            if word == "--at" and (pair := list(islice(words, 2))):
                joined.append(" ".join(pair))
        return super().parse_args(ctx, joined)


def parse_at(value):
    """`"12.5 What is this?"` -> `(12.5, "What is this?")`."""
    seconds, _, text = value.strip().partition(" ")
    try:
        at = float(seconds)
    except ValueError:
        at = -1.0
    if not (0 <= at < float("inf") and text.strip()):
        raise typer.BadParameter(f"{value!r}; give a time in seconds and a text, as in --at 12.5 'What is this?'", param_hint="--at")
    return at, text.strip()


def load_engine(model, device, dtype, adapter, gate, **options):
    """The engine of `evostreaming.Engine`; options left at None are the checkpoint's own."""
    with nothing_to_lose():
        from . import Engine, Gate

        gate = {name: value for name, value in gate.items() if value is not None}
        options = {name: value for name, value in options.items() if value is not None}
        if gate:
            options["gate"] = Gate(**gate)
        return Engine.from_pretrained(model, device=device, dtype=dtype, adapter=adapter, max_streams=1, **options)


def open_video(path, fps):
    """The frames of a file, a folder, an address, or the camera that a bare number names."""
    with nothing_to_lose():
        from .engine.video import open_source

    camera = isinstance(path, str) and path.isdecimal() and not Path(path).exists()
    return open_source(int(path) if camera else path, fps=fps)


def parse_video(value: str):
    if not value:
        raise typer.BadParameter("it is empty; give a file, a folder, a camera number or an address")
    return value


def parse_device(value: str):
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise typer.BadParameter(f"{value!r} is none of auto, cpu, cuda, cuda:1")
    return value


Device = Annotated[
    str, typer.Option(callback=parse_device, help="cuda, cuda:1, cpu, or auto: the GPU if there is one.", rich_help_panel="Model")
]
Html = Annotated[Path | None, typer.Option(help="Write a page of frames, gate and replies.", dir_okay=False, writable=True)]


@app.command(
    cls=PairOptions,
    epilog="[bold]Examples[/bold]\n\n"
    "evostreaming run door.mp4 --query 'Tell me when somebody comes in.'\n\n"
    "evostreaming run film.mkv --at 10 'Who is this?' --html film.html\n\n"
    "evostreaming run rtsp://door.local/1 --fps 2 --threshold 0.7 --refractory 4\n\n"
    "evostreaming run clip.mp4 -m ~/Qwen2.5-VL-7B-Instruct --json | jq .text",
)
def run(
    video: Annotated[
        str,
        typer.Argument(
            metavar="VIDEO", callback=parse_video, help="A video file, a folder of images, a camera number, an rtsp:// address."
        ),
    ],
    query: Annotated[str | None, typer.Option("--query", "-q", metavar="TEXT", help="Asked with the first frame.")] = None,
    at: Annotated[
        list[str] | None, typer.Option("--at", metavar="SECONDS TEXT", help="Ask TEXT at a time of the video; may be given often.")
    ] = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System prompt; a checkpoint not tuned for streams needs one that asks for silence.")
    ] = None,
    fps: Annotated[float, typer.Option(min=0.001, max=240, help="Frames watched in a second of video.")] = 0.5,
    model: Annotated[
        str, typer.Option("--model", "-m", help="'tiny' (built in) or a Hugging Face checkpoint folder.", rich_help_panel="Model")
    ] = "tiny",
    adapter: Annotated[
        str | None, typer.Option(help="A PEFT LoRA folder, merged at load; 'tiny-evolved' is built in.", rich_help_panel="Model")
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="auto: bfloat16 on a GPU, float32 on the CPU.", rich_help_panel="Model"),
    ] = "auto",
    quantization: Annotated[
        Literal["fp8"] | None, typer.Option(help="fp8: 8-bit products in decoder and tower, on a recent GPU.", rich_help_panel="Model")
    ] = None,
    tokens_per_frame: Annotated[int | None, typer.Option(min=1, help="Visual tokens a frame may cost.", rich_help_panel="Model")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=128, help="Context kept; older frames are let go.", rich_help_panel="Model")] = None,
    history: Annotated[
        Literal["full", "replies"] | None,
        typer.Option(help="full: silent turns stay in context; replies: only their frames do.", rich_help_panel="Model"),
    ] = None,
    gate: Annotated[
        Literal["greedy", "softmax", "pair"] | None,
        typer.Option(help="greedy: silent when silence is the likeliest word; softmax, pair: by probability.", rich_help_panel="Gate"),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Speak from this probability on (softmax, pair).", rich_help_panel="Gate")
    ] = None,
    refractory: Annotated[int | None, typer.Option(min=0, help="Turns of silence after a reply.", rich_help_panel="Gate")] = None,
    as_lines: Annotated[bool, typer.Option("--json", help="One JSON object a turn on stdout; all else goes to stderr.")] = False,
    html: Html = None,
):
    """Watch a video: every frame gets a decision, silent or speak, and a reply where the model speaks.

    Exit codes: 0 done, 2 bad arguments, 3 bad input file (what came before the damage is still watched), 4 model cannot be loaded,
    130 stopped by Ctrl-C (what was seen so far is printed and written).
    """
    later = [parse_at(value) for value in at or []]
    check_folder(html)
    choices = {"mode": gate, "threshold": threshold, "refractory": refractory}
    with exit_codes(), open_video(video, fps) as source:
        engine = load_engine(
            model, device, dtype, adapter, choices,
            quantization=quantization, tokens_per_frame=tokens_per_frame, max_tokens=max_tokens, history=history,
        )  # fmt: skip
        watch_and_tell(engine, source, video, model, query, later, as_lines, html, system)


def watch_and_tell(engine, source, video, model, query, later, as_lines, html, system=None):
    """Run the loop with its time line; summary and page are written however it ends."""
    from .report import write_page
    from .timeline import Timeline, summary
    from .watching import Recording, as_json, record

    console = Console(stderr=as_lines, highlight=False)
    recording = Recording(title(video), title(model), str(engine.device), source.duration, speaking_threshold(engine))
    try:
        with Timeline(console, source.expected, lines=not as_lines) as timeline:

            def show(turn):
                if as_lines:
                    print(json.dumps(as_json(turn.step), ensure_ascii=False), flush=True)
                timeline.show(turn)

            record(recording, engine, source, query, later, show, html is not None, system)
    finally:
        console.print(summary(recording), soft_wrap=True)
        for seconds, text in later:
            console.print(f"not asked, no frame at or after {seconds:g} s was seen: {text}", markup=False, style="yellow", soft_wrap=True)
        if source.skipped:
            console.print(f"{source.decoded} pictures decoded, {source.skipped} not needed", style="dim", soft_wrap=True)
        if source.dropped:
            console.print(f"{source.dropped} frames dropped: they came faster than the model is", style="yellow", soft_wrap=True)
        if html is not None:
            write_page(recording, html)
            console.print(f"wrote {html}", markup=False, soft_wrap=True)


def title(place):
    """A name to show: of a path its last part, of an address no password."""
    return without_password(place) if "://" in place else Path(place).name or place


def speaking_threshold(engine):
    """The line in the chart; the greedy gate compares words, not a probability with a number."""
    return None if engine.gate.mode == "greedy" else engine.gate.threshold


def check_folder(html):
    if html is not None and not html.absolute().parent.is_dir():
        raise typer.BadParameter(f"the folder of {html} does not exist", param_hint="--html")


@app.command()
def info(
    model: Annotated[str | None, typer.Option("--model", "-m", help="Also describe this checkpoint and what a stream of it costs.")] = None,
    device: Device = "auto",
    as_object: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
):
    """Versions, devices, which implementation every op uses, video decoders; with --model what a stream of it costs."""
    with exit_codes(), nothing_to_lose():
        from .machine import describe_machine, describe_model, print_tables

        facts = describe_machine()
        if model is not None:
            facts["model"] = describe_model(model, device)
    if as_object:
        print(json.dumps(facts, ensure_ascii=False, indent=2))
    else:
        print_tables(facts, Console(highlight=False))


@app.command()
def demo(
    html: Annotated[Path, typer.Option(help="Where to write the page.", dir_okay=False, writable=True)] = Path("demo.html"),
    device: Device = "auto",
):
    """The built-in model watches a bundled clip, as it came and beside it with what it taught itself; writes a page of it."""
    from .comparison import compare
    from .demo import demo_clip, evolved

    check_folder(html)
    with exit_codes():
        clip, adapter = demo_clip(), evolved()
        if adapter is None:
            typer.echo("no evolved adapter is part of this installation: only the model as it came is shown", err=True)
            with open_video(clip.path, clip.fps) as source:
                engine = load_engine("tiny", device, "auto", None, clip.gate)
                return watch_and_tell(engine, source, clip.path.name, "tiny", clip.query, clip.at, False, html)
        with open_video(clip.path, clip.fps) as first, open_video(clip.path, clip.fps) as second:
            engines = {
                name: load_engine("tiny", device, "auto", name if name == adapter else None, clip.gate) for name in ("tiny", adapter)
            }
            compare(engines, (first, second), clip, html)


def version(value: bool):
    if value:
        print(f"evostreaming {__version__}")
        raise typer.Exit


app.add_typer(eval_commands)
app.add_typer(report_commands)
app.add_typer(evolve_commands)
app.add_typer(offline_commands)
app.add_typer(bench_commands)


@app.callback()
def options(
    show_version: Annotated[bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")] = False,
):
    pass


def main():
    """Entry point of the `evostreaming` command."""
    app(prog_name="evostreaming")
