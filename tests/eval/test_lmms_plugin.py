"""The lmms-eval plug-in: its stock tasks, unchanged, on the built-in model; streaming suites as tasks with RealStreamEval's scores.

What needs lmms-eval runs where it is installed (in an environment of its own: it brings torchvision) and skips elsewhere.
"""

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import evostreaming
from evostreaming import Engine
from evostreaming.cli import app
from evostreaming.engine.errors import ArgumentError
from evostreaming.eval.lmms import TASKS, episodes
from evostreaming.eval.lmms.asking import Asker, Question
from evostreaming.eval.lmms.prompt import Clip, Prompt, frames_of, from_messages, until
from evostreaming.eval.multiple_choice import SYSTEM, Item, show
from evostreaming.eval.suites.catalog import SUITES

CLIPS = Path(evostreaming.__file__).parent / "assets" / "clips"
DEMO, WAIT = str(CLIPS / "demo.mp4"), str(CLIPS / "wait.mp4")
needs_lmms_eval = pytest.mark.skipif(not find_spec("lmms_eval"), reason="lmms-eval is not installed in this environment")


@pytest.fixture(scope="module")
def engine():
    with Engine.from_pretrained("tiny", device="cpu", max_tokens=2048, history="replies", max_streams=4) as engine:
        yield engine


@pytest.fixture(scope="module")
def stream(engine):
    with show(engine, DEMO, Item("i", "t", DEMO, "", ("a", "b"), "A"), 6) as stream:
        yield stream


def test_messages_become_a_system_text_media_and_a_text():
    asked = from_messages(
        [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [
                {"type": "video", "url": "/v.mp4", "start_time": 2.0, "end_time": 4.0},
                {"type": "video", "url": {"type": "video", "path": "/w.mp4", "video_start": 1, "video_end": None}},
                {"type": "text", "text": "What?"}, {"type": "text", "text": "A or B"},
            ]},
        ]
    )  # fmt: skip
    assert asked == Prompt("Be brief.", (Clip("/v.mp4", 2.0, 4.0), Clip("/w.mp4", 1)), "What?\nA or B")


def test_what_the_engine_cannot_take_is_named():
    with pytest.raises(ArgumentError, match="shows audio; this engine takes text, images and videos"):
        from_messages([{"role": "user", "content": [{"type": "audio", "url": "/a.wav"}]}])


def test_media_stand_one_behind_the_other_in_time():
    image = np.zeros((8, 8, 3), np.uint8)
    frames, times = frames_of((image, Clip(DEMO, 0.0, 4.0), image), 4)
    assert len(frames) == 6 and times == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("stops", "text"), [(None, "a\n\nb. c"), (["\n\n"], "a\n\nb. c"), (["\n\n", "."], "a\n\nb"), ("b", "a\n\n")])
def test_stop_words_cut_but_for_the_blank_line_that_every_task_gets(stops, text):
    assert until("a\n\nb. c", stops) == text


def test_the_loss_of_a_letter_is_what_choosing_says_of_it(engine, stream):
    losses = [loss for loss, _ in engine.likelihoods(stream, "Which? A. x B. y C. z", ["A", "B", "C"])]
    shares = engine.choose(stream, "Which? A. x B. y C. z", ["A", "B", "C"])
    odds = [math.exp(losses[0] - loss) for loss in losses]
    assert odds == pytest.approx([share / shares[0] for share in shares], rel=1e-3)


def test_greedy_is_what_generation_writes(engine, stream):
    told = engine.generate(stream, "What does the cook do?", 6)
    (loss, greedy), (other, no) = engine.likelihoods(stream, "What does the cook do?", [told, told + " and a zebra"])
    assert greedy and not no and 0 <= loss < other


def test_each_video_is_shown_once_and_answers_are_those_of_the_engine(engine, stream, monkeypatch):
    asker, shown = Asker(engine, 6, batch=2), []
    monkeypatch.setattr(asker, "_show", lambda prompt, real=asker._show: shown.append(prompt.media[0].path) or real(prompt))
    asked = [(DEMO, "Who is this?"), (DEMO, "What now?"), (WAIT, "What now?"), ("/gone.mp4", "?"), (WAIT, "Who?")]
    settings = {"max_new_tokens": 8, "until": ["\n\n"]}
    questions = [Question(Prompt(SYSTEM, (Clip(video),), text), (i, "task", "test"), settings) for i, (video, text) in enumerate(asked)]
    answers = list(asker.answers(questions))
    assert shown == [DEMO, WAIT, "/gone.mp4", WAIT]
    assert answers[3] == ("", 0)
    assert [text for text, _ in answers[:2]] == [engine.generate(stream, text, 8) for text in ("Who is this?", "What now?")]


def test_every_suite_is_a_task():
    assert {path.name for path in TASKS.glob("*.yaml")} == {f"rse_{name}.yaml" for name in SUITES}
    for name in SUITES:
        assert (TASKS / f"rse_{name}.yaml").read_text() == f"include: streaming\ntask: rse_{name}\ndataset_name: {name}\n"


def test_an_answer_that_is_no_trace_is_refused(make_episode):
    with pytest.raises(ArgumentError, match="--model evostreaming"):
        episodes.process_results(episodes.document(make_episode()), ["She is cutting."])


def test_scores_out_of_answers_are_those_of_the_scorer(make_episode, make_trace):
    far, now, quiet = make_episode("far"), make_episode("now", "RT", targets=((10, 10, 12),), t_q=10.0), make_episode("quiet", targets=())
    said = {"far": {10: "the kettle boils"}, "now": {7: "nothing"}, "quiet": {}}
    found = {}
    for episode in (far, now, quiet):
        answer = json.dumps(episodes.trace_row(make_trace(episode, said[episode.episode_id])))
        for metric, item in episodes.process_results(episodes.document(episode), [answer]).items():
            found.setdefault(metric, []).append(json.loads(json.dumps(item)))
    assert (episodes.overall_S(found["rse_S"]), episodes.overall_E(found["rse_E"]), episodes.mean_Q(found["rse_Q"])) == (50, 100, 100)
    broken = json.dumps({"episode_id": "far", "run_id": "lmms-eval", "turns": [], "err": "VideoError: broken"})
    found["rse_S"] += episodes.process_results(episodes.document(far), [broken]).values()
    assert math.isnan(episodes.overall_S(found["rse_S"]))


# From here on with lmms-eval itself.


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder as HF_HOME: the videos of two stock benchmarks and their documents, in miniature."""
    home = tmp_path_factory.mktemp("home")
    for folder in ("videomme/data", "egoschema/videos", "ovobench/chunked_videos"):
        (home / folder).mkdir(parents=True)
    options = ["A. He cuts.", "B. He waits.", "C. He sings.", "D. He sleeps."]
    rows = {"videomme": [], "egoschema": [], "ovo": []}
    for i, video in enumerate((DEMO, WAIT)):
        (home / f"videomme/data/v{i}.mp4").symlink_to(video)
        (home / f"egoschema/videos/v{i}.mp4").symlink_to(video)
        asked = {"question": "What does the cook do?", "videoID": f"v{i}", "video_idx": f"v{i}", "option": options, "options": options}
        kinds = {"duration": "short", "domain": "Knowledge", "sub_category": "Astronomy", "task_type": "Action Recognition"}
        rows["videomme"] += [{**asked, **kinds, "question_id": f"{i}-{j}", "answer": "AB"[j]} for j in range(2)]
        rows["egoschema"].append({**asked, "answer": str(i)})
        for j in range(2):
            (home / f"ovobench/chunked_videos/{i}_{j}.mp4").symlink_to(video)
        rows["ovo"].append({"id": i, "task": "CRR", "question": "Does he cut?", "test_info": [{"type": 0}, {"type": 1}], "answer": ""})
    for name, docs in rows.items():
        (home / f"{name}.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    return home


STOCK = {
    "videomme": "videomme/videomme.yaml",
    "egoschema": "egoschema/egoschema_subset_mcppl.yaml",
    "ovo": "ovobench/ovo_forward.yaml",
}
LOCAL = """include: {stock}
task: local_{name}
dataset_path: json
dataset_name: null
dataset_kwargs: {{data_files: {{test: {home}/{name}.jsonl}}}}
"""


@pytest.fixture(scope="module")
def stock(home):
    """`run(tasks, force_simple)`: lmms-eval's results in this process."""
    if not find_spec("lmms_eval"):
        pytest.skip("lmms-eval is not installed in this environment")
    patch = pytest.MonkeyPatch()
    for name, value in {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}.items():
        patch.setenv(name, value)
    patch.chdir(home)  # a stock task leaves its submission in the working folder
    import lmms_eval.tasks
    from lmms_eval.evaluator import simple_evaluate

    (home / "tasks").mkdir()
    for name, yaml in STOCK.items():
        stock = Path(lmms_eval.tasks.__file__).parent / yaml
        (home / "tasks" / f"{name}.yaml").write_text(LOCAL.format(stock=stock, name=name, home=home))
    manager = lmms_eval.tasks.TaskManager(include_path=str(home / "tasks"), include_defaults=False, model_name="evostreaming")

    def run(task, force_simple=False):
        arguments = "pretrained=tiny,max_num_frames=4,max_tokens=2048"
        return simple_evaluate(
            "evostreaming", arguments, tasks=[f"local_{task}"], task_manager=manager, batch_size=2, device="cpu",
            force_simple=force_simple, bootstrap_iters=0,
        )  # fmt: skip

    yield run
    patch.undo()


def test_stock_generation(stock, engine):
    results = stock("videomme")
    assert 0 <= results["results"]["local_videomme"]["videomme_perception_score,none"] <= 100
    samples = results["samples"]["local_videomme"]
    assert len(samples) == 4 and samples[0]["arguments"][0].startswith("Select the best answer")
    for sample, video in zip(samples, (DEMO, DEMO, WAIT, WAIT)):
        with show(engine, video, Item("i", "t", video, "", ("a", "b"), "A"), 4) as stream:
            assert sample["filtered_resps"] == [engine.generate(stream, sample["arguments"][0], 16)]


def test_stock_multiple_choice_by_loss(stock, engine):
    results = stock("egoschema", force_simple=True)
    assert 0 <= results["results"]["local_egoschema"]["score,none"] <= 1
    for sample, video in zip(results["samples"]["local_egoschema"], (DEMO, WAIT), strict=True):
        with show(engine, video, Item("i", "t", video, "", ("a", "b"), "A"), 4) as stream:
            pairs = engine.likelihoods(stream, "What does the cook do?", ["He cuts", "He waits", "He sings", "He sleeps"])
        assert sample["score"]["pred"] == int(np.argmin([loss for loss, _ in pairs]))


def test_stock_rounds(stock, engine):
    results = stock("ovo")
    for sample, video in zip(results["samples"]["local_ovo"], (DEMO, WAIT), strict=True):
        with show(engine, video, Item("i", "t", video, "", ("a", "b"), "A"), 4) as stream:
            told = engine.generate(stream, sample["arguments"][0], 128)
        assert sample["filtered_resps"] == [[told, told]] or sample["filtered_resps"] == [told, told]


@needs_lmms_eval
def test_a_streaming_suite_on_the_command_line(tmp_path):
    """Found by its entry point; scores and traces are those of `evostreaming eval` on the same files."""
    data = tmp_path / "data" / "ovobench"
    (data / "src_videos").mkdir(parents=True)
    (data / "src_videos/a.mp4").symlink_to(DEMO)
    (data / "src_videos/b.mp4").symlink_to(WAIT)
    records = [
        {"id": 0, "task": "OCR", "video": "a.mp4", "realtime": 6, "question": "What is he doing?", "answer": "x",
         "options": ["cutting", "waiting"], "gt": 0},
        {"id": 1, "task": "CRR", "video": "b.mp4", "question": "What is cut?", "answer": "An onion.", "ask_time": 4, "clue_time": 10,
         "test_info": [{"realtime": 4, "type": 0}, {"realtime": 16, "type": 1}]},
        {"id": 2, "task": "CRR", "video": "a.mp4", "question": "What is the cook doing now?", "answer": "cut", "ask_time": 2,
         "clue_time": 9, "test_info": [{"realtime": 2, "type": 0}, {"realtime": 14, "type": 1}]},
    ]  # fmt: skip
    (data / "ovo_bench_new.json").write_text(json.dumps(records))
    arguments = "pretrained=tiny,max_tokens=2048,streams=4"
    command = [sys.executable, "-m", "lmms_eval", "--model", "evostreaming", "--model_args", arguments, "--device", "cpu"]
    command += ["--include_path", str(TASKS), "--tasks", "rse_ovobench", "--output_path", str(tmp_path / "out"), "--log_samples"]
    settings = {"EVOSTREAMING_DATA": str(data.parent), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, cwd=tmp_path)
    assert (tmp_path / "out").is_dir(), done.stdout[-3000:] + done.stderr[-3000:]
    (report,), (samples,) = (tmp_path / "out").rglob("*_results.json"), (tmp_path / "out").rglob("*_samples_rse_ovobench.jsonl")
    found = json.loads(report.read_text())["results"]["rse_ovobench"]

    run = ["eval", "ovobench", "--data", str(data), "--out", str(tmp_path / "run"), "--device", "cpu"]
    done = CliRunner().invoke(app, [*run, "--streams", "4", "--max-tokens", "2048"])
    assert done.exit_code == 0, done.output
    card = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert [found["rse_S,none"], found["rse_E,none"]] == pytest.approx([card["overall"]["S"], card["overall"]["E"]])
    assert found["rse_S,none"] > 0
    theirs = [json.loads(json.loads(line)["filtered_resps"])["turns"] for line in samples.read_text().splitlines()]
    assert theirs == [json.loads(line)["turns"] for line in (tmp_path / "run" / "traces.jsonl").read_text().splitlines()]


@needs_lmms_eval
def test_a_suite_without_its_files_says_where_they_belong(tmp_path, monkeypatch):
    from evostreaming.eval.lmms.task import find_data
    from evostreaming.eval.suites import ovobench

    monkeypatch.delenv("EVOSTREAMING_DATA", raising=False)
    with pytest.raises(ArgumentError, match="EVOSTREAMING_DATA is not set: set it to a folder in which ovobench holds"):
        find_data("ovobench", ovobench)
    monkeypatch.setenv("EVOSTREAMING_DATA", str(tmp_path))
    with pytest.raises(ArgumentError, match="ovobench is not there: set EVOSTREAMING_DATA to a folder"):
        find_data("ovobench", ovobench)
    (tmp_path / "ovobench").mkdir()
    assert find_data("ovobench", ovobench) == tmp_path / "ovobench"
