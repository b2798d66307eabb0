"""The demo's two lanes: what is told beside what, and that the built-in adapter is what its provenance says and changes the model."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evostreaming import cli, comparison
from evostreaming.demo import demo_clip
from evostreaming.engine.errors import CheckpointError
from evostreaming.engine.locate import ADAPTERS, asset, locate, locate_adapter
from evostreaming.watching import Recording

spec = importlib.util.spec_from_file_location("pretend", Path(__file__).with_name("pretend.py"))
pretend = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pretend)

EVENTS = [{"start": 3.0, "text": "a door opened"}, {"start": 8.0, "text": "a dog came"}, {"start": 99.0, "text": "too late"}]
(NAME,) = ADAPTERS
shipped = pytest.mark.skipif(not asset(NAME).is_dir(), reason="this package holds no evolved adapter yet")


class Calm(pretend.Engine):
    """Says nothing at all."""

    def step(self, frame, stream, time):
        step = super().step(frame, stream, time)
        return type(step)(step.index, time, False, 0.01, None, 0, None, step.latency)


def recorded(query="Who comes?"):
    recordings = [Recording("clip.mp4", name, "cpu") for name in ("before", "after")]
    told = []
    engines, sources = (pretend.Engine(), Calm()), (pretend.Source(), pretend.Source())
    comparison.record_both(recordings, engines, sources, query, [], lambda: told.extend(map(str, comparison.lines(recordings, EVENTS))))
    return recordings, told


def test_two_lanes_share_a_time_line_with_what_was_asked_and_what_happened():
    recordings, told = recorded()
    assert [len(recording.turns) for recording in recordings] == [pretend.FRAMES] * 2
    assert told[0].split("s  ", 1)[1] == "Who comes?" and told[1].split() == ["0.0", "s", "·", "·"]
    door, dog = told.index("            (a door opened)"), told.index("            (a dog came)")
    assert told[door + 1].split()[:2] == ["4.0", "s"] and told[dog + 1].split() == ["8.0", "s", "heard:", "Who", "comes?", "·"]
    assert not any("too late" in line for line in told)
    assert comparison.summary(recordings).endswith("spoke: before 2 times, after 0 times")


def test_the_page_has_a_row_for_each_lane_and_no_outside_reference_or_markup_of_others():
    recordings, _ = recorded("<script>x</script>")
    text = comparison.page(recordings, EVENTS)
    assert not re.findall(r"(?:src|href)=['\"](?!data:image/jpeg;base64,|#)", text) and "<script" not in text
    rows = text.split("<tr>")[1:]
    assert len(rows) == 4 and all(row.count("<td") == pretend.FRAMES for row in rows)
    assert rows[0].count("<img") == pretend.FRAMES and "a door opened" in rows[1]
    assert rows[2].count("class='speak'") == 2 and rows[3].count("class='silent'") == pretend.FRAMES


def test_demo_shows_both_lanes_where_the_adapter_is_and_says_where_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "open_video", lambda path, fps: pretend.Source())
    monkeypatch.setattr(cli, "load_engine", lambda model, device, dtype, adapter, gate: Calm() if adapter else pretend.Engine())
    for name, words in ((NAME, "spoke: tiny 2 times, tiny-evolved 0 times"), (None, "spoke 2 times")):
        monkeypatch.setattr("evostreaming.demo.evolved", lambda name=name: name)
        done = CliRunner().invoke(cli.app, ["demo", "--html", str(tmp_path / "page.html")])
        assert done.exit_code == 0 and words in done.stdout, done.output
        assert ("only the model as it came" in done.stderr) == (name is None)
        assert ("class=lanes" in (tmp_path / "page.html").read_text()) == (name is not None)


def test_an_adapter_is_found_by_name_or_path_and_its_absence_is_said(tmp_path, monkeypatch):
    assert locate_adapter(None) is None and locate_adapter(tmp_path) == tmp_path
    monkeypatch.setattr("evostreaming.engine.locate.asset", lambda name: tmp_path / name)
    with pytest.raises(CheckpointError, match="not part of this installation"):
        locate_adapter(NAME)
    (tmp_path / NAME).mkdir()
    assert locate_adapter(NAME) == tmp_path / NAME


@shipped
def test_the_built_in_adapter_is_small_whole_and_of_the_built_in_model():
    from evostreaming.eval.sweep_model import fingerprint

    files = {path.name: path for path in asset(NAME).iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "streaming.json", "provenance.json"} <= set(files)
    assert sum(path.stat().st_size for path in files.values()) < 4e6
    about = json.loads(files["provenance.json"].read_text())
    assert about["adapter_sha256"] == hashlib.sha256(files["adapter_model.safetensors"].read_bytes()).hexdigest()
    assert about["model"] == "tiny" and about["model_sha256"] == fingerprint(locate("tiny")), "made for another model"
    assert "evostreaming evolve " in about["command"] and {"seed", "samples", "tuning"} <= set(about["settings"])
    assert json.loads(files["adapter_config.json"].read_text())["base_model_name_or_path"] == "tiny"


@shipped
def test_evolved_the_model_waits_where_it_spoke_at_every_frame():
    from evostreaming import Engine
    from evostreaming.engine.video import open_source

    clip, spoken = demo_clip(), []
    for adapter in (None, NAME):
        engine = Engine.from_pretrained("tiny", device="cpu", adapter=adapter, max_streams=1)
        with open_source(clip.path, fps=clip.fps) as source, engine.open(query=clip.query) as stream:
            steps = [engine.step(frame.pixels, stream=stream, time=frame.time) for frame in source]
        spoken.append(sum(step.speak for step in steps))
    assert spoken[0] == len(steps) and 1 <= spoken[1] <= 2 / 3 * len(steps)
