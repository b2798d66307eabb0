"""The command line as its user meets it: what is printed where, and which exit code a script sees."""

import importlib.util
import json
import os
import pty
import signal
import subprocess
import sys
import time
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

import evostreaming
from evostreaming import cli
from evostreaming.engine.errors import ArgumentError, CheckpointError, NumericsError, TextTooLong, VideoError

PRETEND = Path(__file__).with_name("pretend.py")
spec = importlib.util.spec_from_file_location("pretend", PRETEND)
pretend = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pretend)


@pytest.fixture
def run(monkeypatch):
    """Call `evostreaming` with the pretended engine and video; both can be replaced by keyword."""

    def call(*words, source=None, engine=None):
        def load(*args, **options):
            if isinstance(engine, Exception):
                raise engine
            return engine or pretend.Engine()

        monkeypatch.setattr(cli, "load_engine", load)
        monkeypatch.setattr(cli, "open_video", lambda path, fps: source or pretend.Source())
        return CliRunner().invoke(cli.app, [str(word) for word in words])

    return call


def turns(stdout):
    return [json.loads(line) for line in stdout.splitlines()]


def test_json_is_one_object_a_turn_and_nothing_else_on_stdout(run):
    result = run("run", "clip.mp4", "--json")
    assert result.exit_code == 0
    lines = turns(result.stdout)
    assert len(lines) == pretend.FRAMES
    assert all(list(line) == ["index", "time", "speak", "probability", "text", "tokens", "dropped", "latency_ms"] for line in lines)
    assert lines[3]["text"] is None and lines[4] == {
        "index": 4,
        "time": 8.0,
        "speak": True,
        "probability": 0.9,
        "text": "heard: None",
        "tokens": 3,
        "dropped": 0,
        "latency_ms": {"preprocess": 1.0, "vision": 2.0, "prefill": 3.0, "gate": 0.5, "reply": 4.0, "total": 10.5},
    }
    assert "12 frames" in result.stderr


class Late(pretend.Source):
    """A live source that dropped two frames in front of the fourth and five in front of the eighth."""

    def __iter__(self):
        for frame in super().__iter__():
            self.dropped += {3: 2, 7: 5}.get(frame.index, 0)
            yield frame


def test_dropped_frames_are_told_at_the_turn_behind_them_and_in_all(run):
    told = [line["dropped"] for line in turns(run("run", "rtsp://door/1", "--json", source=Late()).stdout)]
    assert told == [0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0]
    lines = run("run", "rtsp://door/1", source=Late()).stdout.splitlines()
    assert [line[:8].strip() for line in lines if line.endswith(" dropped)")] == ["6.0", "14.0"] and "(5 dropped)" in lines[7]
    assert "7 frames dropped" in lines[-1]


def test_what_sampling_saved_is_told_in_the_end(run):
    assert "300 pictures decoded, 14700 not needed" in run("run", "clip.mp4", source=pretend.Source(decoded=300, skipped=14700)).stdout
    assert "not needed" not in run("run", "clip.mp4", source=pretend.Source(decoded=300, skipped=0)).stdout


def test_time_line_tells_silence_replies_and_queries_without_escape_codes_in_a_pipe(run):
    result = run("run", "clip.mp4", "-q", "Anyone [bold]there[/bold]?")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and "\x1b" not in result.stdout
    assert "asked" in lines[0] and "Anyone [bold]there[/bold]?" in lines[0]
    assert "silent" in lines[1] and "0.10" in lines[1]
    assert "8.0 s" in lines[5] and "speak" in lines[5] and "heard: Anyone [bold]there[/bold]?" in lines[5]
    assert "spoke 2 times" in lines[-1]


def test_a_reply_cannot_break_the_line_or_steer_the_terminal(run):
    result = run("run", "clip.mp4", "-q", "one\ntwo\x1b[2J\x07\rthree")
    assert len(result.stdout.splitlines()) == pretend.FRAMES + 2 and "heard: one two [2J three" in result.stdout
    assert not {"\x1b", "\x07", "\r"} & set(result.stdout)


def test_a_later_query_rides_with_the_first_frame_at_or_after_its_time(run):
    result = run("run", "clip.mp4", "--json", "--at", "9", "second?", "-q", "first?", "--at", "8", "what's this?")
    assert [line["text"] for line in turns(result.stdout) if line["speak"]] == ["heard: what's this?", "heard: second?"]


def test_a_query_after_the_end_is_reported_as_not_asked(run):
    result = run("run", "clip.mp4", "--json", "--at", "500", "too late?")
    assert result.exit_code == 0 and "not asked" in result.stderr and "too late?" in result.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["run", "clip.mp4", "--at", "soon", "what?"],
        ["run", "clip.mp4", "--at", "5"],
        ["run", "clip.mp4", "--at", "-1", "what?"],
        ["run", "clip.mp4", "--at", "nan", "what?"],
        ["run", "clip.mp4", "--at", "5", " "],
        ["run", "clip.mp4", "--fps", "0"],
        ["run", "clip.mp4", "--gate", "loud"],
        ["run", "clip.mp4", "--threshold", "1.5"],
        ["run", "clip.mp4", "--refractory", "-1"],
        ["run", "clip.mp4", "--html", "no/such/folder/page.html"],
        ["run", "clip.mp4", "--device", "gpu"],
        ["run", "clip.mp4", "--quantization", "int3"],
        ["run", ""],
        ["run", "clip.mp4", "--no-such-option"],
        ["watch"],
    ],
    ids=" ".join,
)
def test_bad_arguments_exit_2_before_any_work(run, words):
    result = run(*words)
    assert result.exit_code == 2 and result.stdout == "" and result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CheckpointError("no such folder: /nowhere"), 4),
        (VideoError("clip.mp4", "not a video"), 3),
        (ArgumentError("max_tokens is 128"), 2),
        (TextTooLong("query of 9000 tokens"), 2),
        (NumericsError("NaN in the logits"), 1),
        (CheckpointError("cannot be fetched (Offline:\nno network); give a directory"), 4),
    ],
)
def test_each_kind_of_error_has_its_exit_code_and_one_line_on_stderr(run, error, code):
    result = run("run", "clip.mp4", "--json", engine=error)
    line = str(error).replace("\n", " ")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", f"evostreaming: {line}\n")


def test_frames_before_the_damage_are_watched_printed_and_written(run, tmp_path):
    page = tmp_path / "page.html"
    result = run("run", "clip.mp4", "--json", "--html", page, source=pretend.Source(broken_after=7))
    assert result.exit_code == 3 and len(turns(result.stdout)) == 7
    assert "damaged packet (read up to 14.00 s)" in result.stderr
    assert "damaged packet" in page.read_text() and page.read_text().count("<figure") == 7


def test_options_left_out_stay_the_checkpoints_own_and_given_ones_arrive(monkeypatch):
    seen = []

    class Engine:
        @staticmethod
        def from_pretrained(path, **options):
            seen.append((path, options))

    monkeypatch.setattr(evostreaming, "Engine", Engine, raising=False)
    unset = {"mode": None, "threshold": None, "refractory": None}
    cli.load_engine("tiny", "cpu", "auto", None, unset, tokens_per_frame=None)
    assert seen.pop() == ("tiny", {"device": "cpu", "dtype": "auto", "adapter": None, "max_streams": 1})
    cli.load_engine("dir", "cuda:1", "auto", "lora", {**unset, "mode": "pair", "refractory": 3}, tokens_per_frame=128, history="replies")
    path, options = seen.pop()
    gate = options.pop("gate")
    assert (gate.mode, gate.threshold, gate.refractory) == ("pair", evostreaming.Gate().threshold, 3)
    expected = {"device": "cuda:1", "dtype": "auto", "adapter": "lora", "max_streams": 1, "tokens_per_frame": 128, "history": "replies"}
    assert (path, options) == ("dir", expected)


def test_the_system_prompt_reaches_the_stream(run):
    engine = pretend.Engine()
    assert run("run", "clip.mp4", "--system", "Say SILENT until the door opens.", engine=engine).exit_code == 0
    assert engine.system == "Say SILENT until the door opens."


def test_demo_watches_the_bundled_clip_as_the_file_beside_it_says_and_writes_the_page(run, tmp_path, monkeypatch):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.json").write_text(json.dumps({"fps": 2, "query": "What moves?", "at": [[9, "And now?"]]}))
    monkeypatch.setattr("evostreaming.demo.CLIPS", tmp_path)
    monkeypatch.chdir(tmp_path)
    result = run("demo")
    assert result.exit_code == 0 and "heard: What moves?" in result.stdout and "heard: And now?" in result.stdout
    page = (tmp_path / "demo.html").read_text()
    assert "What moves?" in page and page.count("<img") == pretend.FRAMES


def test_demo_without_a_bundled_clip_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr("evostreaming.demo.CLIPS", tmp_path)
    result = run("demo", "--html", tmp_path / "page.html")
    assert result.exit_code == 3 and "no clip is bundled" in result.stderr


def test_help_teaches_with_examples_and_does_not_wait_for_torch():
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom evostreaming import cli\n"
        "print(CliRunner().invoke(cli.app, ['run', '--help']).stdout)\n"
        "assert not {'torch', 'transformers', 'matplotlib', 'av'} & set(sys.modules), 'slow help'\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "Examples" in shown and "--at 10 'Who is this?'" in shown and "Exit codes" in shown


def test_version_is_the_one_in_the_version_file():
    written = (Path(evostreaming.__file__).parent / "VERSION").read_text().strip()
    shown = CliRunner().invoke(cli.app, ["--version"]).stdout
    assert shown == f"evostreaming {written}\n" and evostreaming.__version__ == written == metadata.version("evostreaming")


def test_every_public_name_resolves_and_a_wrong_one_does_not():
    for name in evostreaming.__all__:
        assert getattr(evostreaming, name) is not None
    with pytest.raises(AttributeError, match="Engines"):
        evostreaming.Engines  # noqa: B018


@pytest.mark.timeout(60)  # lines that go astray leave the pipe silent
def test_json_stays_on_stdout_while_the_progress_bar_runs_on_a_terminal():
    screen, terminal = pty.openpty()
    words = [sys.executable, str(PRETEND), "run", "clip.mp4", "--json"]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=terminal, text=True)
    try:
        lines = turns("".join(child.stdout.readline() for _ in range(5)))
        shown = os.read(screen, 4096).decode(errors="ignore")
    finally:
        child.kill()
        child.wait()
        os.close(screen)
        os.close(terminal)
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert "watching" in shown and "latency_ms" not in shown


def test_ctrl_c_ends_cleanly_with_what_was_done_so_far(tmp_path):
    page = tmp_path / "page.html"
    words = [sys.executable, str(PRETEND), "run", "clip.mp4", "--json", "--html", str(page)]
    hears = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which those do not that a shell started in the background
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, preexec_fn=hears)
    try:
        first = [child.stdout.readline() for _ in range(6)]
        time.sleep(0.05)  # in the middle of a step
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=60)
    finally:
        child.kill()
    lines = turns("".join(first) + stdout)
    assert child.returncode == 130, stderr
    assert [line["index"] for line in lines] == list(range(len(lines))) and 6 <= len(lines) < 60
    assert "Traceback" not in stderr and f"{len(lines)} frames in" in stderr
    assert page.read_text().count("<figure") == len(lines) and "interrupted" in page.read_text()


def test_ctrl_c_while_modules_load_is_no_traceback():
    interrupt = (  # numpy makes another error of an exception that its own compiled half meets in this import
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *rest):\n"
        "        name == 'numpy.exceptions' and os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from evostreaming import cli\n"
        "cli.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", interrupt, "info"], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "evostreaming: stopped by Ctrl-C\n")
