"""The report of a run: everything that the specification asks for is on the page, what is missing is said, and it renders in a browser."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from typer.testing import CliRunner

from evostreaming.eval.episodes import write_episodes
from evostreaming.eval.errors import SchemaError
from evostreaming.eval.floors import make_trace
from evostreaming.eval.journal import write_whole
from evostreaming.eval.report import write_report
from evostreaming.eval.report_cli import app
from evostreaming.eval.report_timelines import choose, timing
from evostreaming.eval.traces import Trace, write_traces

TASKS = [("OCR", "RT", "letter"), ("EPM", "BT", "letter"), ("CRR", "FAR", "text"), ("REC", "FAR", "int")]


@pytest.fixture
def make_run(make_episode, tmp_path):
    """`(policy, ...) -> folder`: a run of a floor over three videos of each task and a quiet episode; `change` edits the traces."""

    def make(policy="every-3rd-turn", name="run", change=lambda trace: trace, settings=None):
        episodes = []
        for task, regime, form in TASKS:
            due = ((20, 20, 30),) if regime == "FAR" else ((30, 30, 30),)
            asked = 0.0 if regime == "FAR" else 30.0
            many = [make_episode(f"{task}-{i}", regime, due, asked, form=form, task=task, video=f"v{i}.mp4") for i in range(3)]
            episodes += many
        episodes.append(make_episode("calm", "FAR", (), 10.0, task="QUIET", video="v1.mp4"))
        folder = tmp_path / name
        folder.mkdir()
        write_episodes(folder / "episodes.jsonl", episodes)
        write_traces(folder / "traces.jsonl", [change(make_trace(e, policy, f"{folder.name}-of-{policy}")) for e in episodes])
        if settings is not None:
            (folder / "run.json").write_text(json.dumps(settings))
        return folder

    return make


class Reader(HTMLParser):
    """Text and tags of a page; fails on tags that are closed wrongly."""

    def __init__(self, page):
        super().__init__()
        self.text, self.tags, self.open = [], [], []
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "path", "use", "br", "rect", "svg:use"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in ("path", "rect"):
            assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(folder):
    page = Reader((folder / "report.html").read_text())
    return page, " ".join(" ".join(page.text).split())


def test_the_page_names_every_parameter_and_shows_the_floors(make_run):
    folder = make_run(settings={"suite": "test", "model": "tiny", "gate": ["softmax", 0.5, 0]})
    assert write_report(folder) == folder / "report.html"
    page, text = read(folder)
    header = json.loads((folder / "scores.json").read_text())["header"]
    for fact in ("RSE-1.0", "δ, seconds 2.0", "λ, seconds 5.0", "θ 0.5", "matching max", "judge lexical", "clock video",
                 header["episodes_sha256"], header["traces_sha256"], "</standby>", "run: gate"):  # fmt: skip
        assert fact in text, fact
    for policy in ("always-silent", "always-speak", "every-3rd-turn", "constant-delay-7s", "oracle"):
        assert f"FAR floor: {policy}" in text
    assert sum(tag == "svg" for tag, _ in page.tags) >= 4
    assert "tokens/turn" in text and "turn p50" not in text, "nothing is known of latencies here"
    outside = [
        v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href", "xlink:href") and not v.startswith(("data:", "#"))
    ]
    assert outside == [] and "script" not in {tag for tag, _ in page.tags}


def test_the_numbers_on_the_page_are_those_of_the_scores(make_run):
    folder = make_run()
    write_report(folder)
    card = json.loads((folder / "scores.json").read_text())
    rows = re.findall(r"<tr class=''><td>(\w+)</td><td>([\d.–]+)</td>", (folder / "report.html").read_text())
    assert {name: value for name, value in rows if name in ("OCR", "EPM", "CRR", "REC")} == {
        name: f"{card['tasks'][name]['S']:.1f}" for name in ("OCR", "EPM", "CRR", "REC")
    }


def test_scores_are_kept_while_they_are_of_these_files_and_made_anew_after(make_run):
    folder = make_run()
    write_report(folder)
    card = json.loads((folder / "scores.json").read_text())
    card["header"]["judge"] = "a model far away"
    (folder / "scores.json").write_text(json.dumps(card))
    write_report(folder)
    assert "judge a model far away" in read(folder)[1]
    (folder / "traces.jsonl").write_text((folder / "traces.jsonl").read_text().replace("run-of-every", "other-of-every"))
    write_report(folder)
    assert "judge lexical" in read(folder)[1] and "other-of-every-3rd-turn" in read(folder)[1]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"header": []}', '{"header": null}'])
def test_damaged_scores_are_made_anew(make_run, content):
    folder = make_run()
    (folder / "scores.json").write_text(content)
    write_report(folder)
    assert json.loads((folder / "scores.json").read_text())["header"]["judge"] == "lexical"


def test_settings_that_are_no_object_are_bad_input(make_run):
    with pytest.raises(SchemaError, match=r"run\.json: expected a JSON object, got a list"):
        write_report(make_run(settings=[]))


@pytest.mark.parametrize("name", ["report.html", "scores.json"])
def test_on_a_full_disk_the_old_file_stays_and_the_command_says_which(make_run, monkeypatch, name):
    folder = make_run()
    write_report(folder)
    (folder / name).write_text("old")

    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert (result.exit_code, result.stderr.count("\n"), (folder / name).read_text()) == (1, 1, "old")
    assert f"{folder / name}: No space left on device" in result.stderr


def test_what_could_not_be_run_is_said_with_its_reason(make_run):
    broken = lambda trace: Trace(trace.episode_id, trace.run_id, (), "no frame <here>") if trace.episode_id == "OCR-1" else trace  # noqa: E731
    folder = make_run(change=broken)
    (folder / "skipped.jsonl").write_text('{"episode_id": "OCR-7", "reason": "video is 0 bytes"}\n')
    write_report(folder)
    text = read(folder)[1]
    assert "1 of 13 episodes have no usable trace" in text and "no frame <here>" in text and "OCR-7 video is 0 bytes" in text
    assert "– overall S" in text


def test_baselines_of_the_run_stand_beside_it(make_run):
    folder = make_run("oracle")
    (folder / "baselines").mkdir()
    make_run("always-silent", "run/baselines/simplestream")
    (folder / "baselines" / "unfinished").mkdir()
    write_report(folder)
    text = read(folder)[1]
    assert "Beside simplestream A is the baseline, B this run; 13 episodes of 3 videos" in text and "unfinished" not in text
    assert "overall 0.0 100.0 +100.0 +100.0 … +100.0 <.001" in text


def test_words_of_a_model_are_shown_not_obeyed(make_run):
    evil = "<script>alert(1)</script>"
    folder = make_run(change=lambda t: Trace(t.episode_id, t.run_id, tuple(u if u.silent else u._replace(text=evil) for u in t.turns)))
    write_report(folder)
    page, text = read(folder)
    assert evil in text and "script" not in {tag for tag, _ in page.tags}


def test_time_lines_show_best_and_worst_with_the_gate_and_the_frames(make_run, tmp_path):
    import av

    with av.open(str(tmp_path / "v0.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 6 * i, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    for i in (1, 2):
        shutil.copy(tmp_path / "v0.mp4", tmp_path / f"v{i}.mp4")
    gated = lambda t: Trace(t.episode_id, t.run_id, tuple(u._replace(p_speak=0.25) for u in t.turns))  # noqa: E731
    folder = make_run(change=gated, settings={"data": str(tmp_path)})
    write_report(folder)
    page, _ = read(folder)
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert {p["alt"] for p in pictures} >= {"frame at 0 s", "frame at 20 s", "frame at 30 s"}
    assert "75.0" in (folder / "report.html").read_text().split("vector-effect=non-scaling-stroke d='M ")[1][:40]
    (folder / "run.json").write_text(json.dumps({"data": str(tmp_path / "elsewhere")}))
    write_report(folder)
    assert "<img" not in (folder / "report.html").read_text()


def test_the_episodes_shown_are_the_lowest_and_highest():
    row = lambda name, task, regime, s: {"episode_id": name, "task": task, "regime": regime, "S": s, "E": s, "Q": None}  # noqa: E731
    rows = [
        row("a", "CRR", "FAR", 0.5),
        row("b", "CRR", "FAR", 1.0),
        row("c", "CRR", "FAR", 0.0),
        row("d", "OCR", "RT", 1.0),
        row("e", "OCR", "RT", 0.0),
    ]
    assert choose(rows) == ["b", "c", "e"]


@pytest.mark.parametrize(
    ("k", "text", "dots"),
    [
        (10, "The kettle boils!", "in"),
        (10, "Not yet.", "in wrong"),
        (16, "The kettle boils", "late"),
        (3, "the kettle boils", ""),
        (3, "hm", "wrong"),
    ],
)
def test_a_dot_tells_time_and_words_apart(make_episode, make_trace, tmp_path, k, text, dots):
    episode = make_episode("e")
    write_episodes(tmp_path / "episodes.jsonl", [episode])
    write_traces(tmp_path / "traces.jsonl", [make_trace(episode, {k: text})])
    write_report(tmp_path)
    page = read(tmp_path)[0]
    said = [attrs["class"].split() for tag, attrs in page.tags if tag == "b" and "said" in attrs.get("class", "")]
    assert said == [["said", *dots.split()]]


@pytest.mark.parametrize(("t", "kind"), [(19.9, ""), (20, "in"), (30, "in"), (30.1, "late"), (34.9, "late"), (35, "")])
def test_a_response_is_colored_by_its_time(t, kind):
    assert timing(t, [(20, 30)]) == kind


def test_the_command_says_where_the_page_is_or_what_is_wrong(make_run, tmp_path):
    folder = make_run()
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert (result.exit_code, result.stdout) == (0, f"wrote {folder}/report.html\n")
    result = CliRunner().invoke(app, ["report", str(tmp_path / "nowhere")])
    assert result.exit_code == 3 and "is not the folder of a run" in result.stderr
    (folder / "traces.jsonl").write_text("{}\n")
    with pytest.raises(SchemaError, match="line 1, field episode_id"):
        write_report(folder)


@pytest.fixture(scope="module")
def chromium():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium is installed")

    def browse(page, *flags):
        command = [found, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
                   f"--user-data-dir={page.parent / 'profile'}", *flags, f"file://{page}"]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    return browse


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_without_complaint_or_sideways_scrolling(make_run, chromium, tmp_path, width):
    from PIL import Image

    write_report(folder := make_run())
    inner = html.escape((folder / "report.html").read_text(), quote=True)
    # A window has a least width, a frame has not; the script reads what the page inside needs.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<!doctype html><body style='margin:0'><iframe style='border:0;width:{width}px;height:3000px' srcdoc='{inner}'></iframe><script>"
        "onload = () => { const page = document.querySelector('iframe').contentDocument.documentElement;"
        "document.title = `needs ${page.scrollWidth} of ${page.clientWidth}` }</script>"
    )
    seen = chromium(frame, "--dump-dom", "--virtual-time-budget=3000")
    assert re.search(r"<title>(.*?)</title>", seen.stdout)[1] == f"needs {width} of {width}"
    picture = tmp_path / "picture.png"
    shown = chromium(frame, f"--screenshot={picture}", f"--window-size={max(width, 500)},3000")
    assert "CONSOLE" not in seen.stderr + shown.stderr
    pixels = np.asarray(Image.open(picture).convert("RGB"))[:, :width].reshape(3000, -1, 3)
    inked = (pixels.min(2) < 250).any(1)
    # Ink all the way down, colored charts in it: not a blank or broken page.
    assert inked[:1500].mean() > 0.3 and ((pixels.max(2).astype(int) - pixels.min(2)) > 100).sum() > 1000


def test_a_file_behind_a_link_is_written_whole_and_the_link_stays(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new" and len(list(tmp_path.iterdir())) == 2
