"""Several engines share a sweep: who takes which bundle, and what processes of one machine say, fail with and leave behind."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import evostreaming
from evostreaming.cli import app
from evostreaming.engine.errors import CapacityError, CheckpointError, VideoError
from evostreaming.eval import sweep_processes
from evostreaming.eval.episodes import Episode, Query, Target, write_episodes
from evostreaming.eval.errors import RunError
from evostreaming.eval.run_folder import RunFolder
from evostreaming.eval.sweep import sweep
from evostreaming.eval.sweep_model import Model
from evostreaming.eval.sweep_processes import Failure, Processes
from evostreaming.eval.sweep_workers import Done, Share, spread

CLIPS = Path(evostreaming.__file__).parent / "assets" / "clips"
TINY = Model("tiny", device="cpu", streams=3, max_tokens=2048, max_new_tokens=16)


class Hand:
    """Takes `pause` seconds for a bundle and tells what it did."""

    def __init__(self, name, pause, log):
        self.name, self.pause, self.log = name, pause, log

    def run(self, bundle, upcoming=()):
        self.log.append((self.name, bundle, upcoming))
        time.sleep(self.pause)
        yield Done(bundle[0], [bundle], self.pause, 0.0)


def test_whoever_is_free_takes_the_longest_that_is_left_and_every_bundle_runs_once():
    log, bundles = [], [(n,) for n in range(40, 0, -1)]
    done = list(spread([Hand("slow", 0.2, log), Hand("fast", 0.002, log)], bundles))
    assert sorted(work.turns for work in done) == list(range(1, 41))
    fast = [bundle for name, bundle, _ in log if name == "fast"]
    assert len(fast) > 30 and fast[:20] == sorted(fast[:20], reverse=True)


def test_what_a_busy_hand_has_set_aside_is_taken_by_one_that_has_nothing_to_do():
    share = Share([(4,), (3,), (2,)])
    assert share.take("busy") == ((4,), (3,)) and share.take("free") == ((2,), ())
    assert share.take("free") == ((3,), ()), "a bundle waits for a busy hand"
    assert share.take("busy") == share.take("free") == ((), ())


def test_an_error_of_one_hand_ends_the_work_of_all():
    class Fails(Hand):
        def run(self, bundle, upcoming=()):
            raise CheckpointError("no weights")

    log = []
    with pytest.raises(CheckpointError, match="no weights"):
        list(spread([Hand("good", 0.05, log), Fails("bad", 0, log)], [(n,) for n in range(100)]))
    deadline = time.monotonic() + 10
    while threading.active_count() > 1 and len(log) < 100 and time.monotonic() < deadline:
        count = len(log)
        time.sleep(0.3)
        if len(log) == count:
            return
    assert len(log) < 100, "the other hand went on"


@pytest.mark.parametrize(
    "error", [CapacityError(2**30, 2**20, 7), VideoError("rtsp://user:secret@host/1", "cut off", 3.0), CheckpointError("x")]
)
def test_errors_come_through_a_pipe_as_they_were(error):
    other = pickle.loads(pickle.dumps(Failure(error))).error()
    assert type(other) is type(error) and str(other) == str(error) and vars(other) == vars(error)


@pytest.fixture
def workers(tmp_path, monkeypatch):
    """The module of a worker without a model, as the processes will find it."""
    (tmp_path / "tiny_workers.py").write_text(
        "import os\n"
        "class Quick:\n"
        "    def run(self, bundle, upcoming=()):\n"
        "        for what in bundle:\n"
        "            if what == 'die': os._exit(7)\n"
        "            if what == 'fail': raise ZeroDivisionError('what')\n"
        "            yield os.environ['CUDA_VISIBLE_DEVICES'], os.getpid()\n"
        "class Device:\n"
        "    def run(self, bundle, upcoming=()):\n"
        "        import torch\n"
        "        yield str(torch.cuda.get_device_properties(0).uuid)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import tiny_workers

    yield tiny_workers
    del sys.modules["tiny_workers"]


def test_each_process_sees_its_own_gpu_and_ends_with_the_work(workers, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with Processes(workers.Quick, ["4", "5"]) as hands:
        said = [list(hand.run(["a", "b"])) for hand in hands]
        assert [gpu for row in said for gpu, _ in row] == ["4", "4", "5", "5"]
        pids = [row[0][1] for row in said]
        assert len({*pids, os.getpid()}) == 3 and os.environ["CUDA_VISIBLE_DEVICES"] == "4,5"
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_that_dies_or_fails_is_an_error_that_says_so(workers, capfd):
    with Processes(workers.Quick, ["0", "1"]) as (first, second):
        with pytest.raises(RunError, match=r"process on GPU 0 is gone \(exit code 7\); run the same command again"):
            list(first.run(["a", "die"]))
        with pytest.raises(RunError, match=r"process on GPU 1 failed \(ZeroDivisionError: what\)"):
            list(second.run(["fail"]))
    assert "Traceback" in capfd.readouterr().err


def test_processes_end_when_the_sweep_is_killed(workers, tmp_path):
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from tiny_workers import Quick\n"
        "from evostreaming.eval.sweep_processes import Processes\n"
        "if __name__ == '__main__':\n"
        "    with Processes(Quick, ['0']) as (hand,):\n"
        "        print(list(hand.run('a'))[0][1], flush=True); time.sleep(60)\n"
    )
    (tmp_path / "sweep.py").write_text(script)
    process = subprocess.Popen([sys.executable, str(tmp_path / "sweep.py"), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while alive(pid):
        assert time.monotonic() < deadline, "the process of a killed sweep lives on"
        time.sleep(0.05)


def alive(pid):
    """Whether the process is there and not merely waiting for somebody to collect its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def bench(tmp_path):
    """`(folder, episodes, paths)`: six episodes of three videos."""
    episodes, paths = [], {}
    for i in range(3):
        video = f"{i}.mp4"
        (tmp_path / video).symlink_to(CLIPS / ("demo.mp4" if i % 2 else "wait.mp4"))
        paths[video] = str(tmp_path / video)
        for t_q in (3.0, 7.0):
            query, target = Query("q", t_q, "What is the cook doing now?", "text"), Target("g", "q", 10.0, (10.0, 14.0), "cut")
            episodes.append(Episode(f"e{i}-{t_q:g}", "clips", "FAR", "FAR", video, 0.0, 16.0 + 2 * i, 0.5, (query,), (target,)))
    write_episodes(tmp_path / "suite.jsonl", episodes)
    return tmp_path, episodes, paths


def test_engines_in_processes_say_what_this_process_says(bench, monkeypatch):
    folder, episodes, paths = bench
    monkeypatch.setattr(sweep_processes, "visible_gpus", lambda count: [""] * count)
    settings = {"suite": "clips", "model": "tiny"}
    alone = sweep(RunFolder(folder / "one", episodes, settings), TINY, paths)
    two = sweep(RunFolder(folder / "two", episodes, settings), TINY, paths, gpus=2)
    assert alone.read_bytes() == two.read_bytes()
    # A checkpoint that cannot be loaded is the same error as in this process.
    (folder / "empty").mkdir()
    broken = sweep_processes.work_on_gpus(2, Model(str(folder / "empty"), device="cpu"), "stream", [(1,)])
    with pytest.raises(CheckpointError):
        next(broken)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--gpus", "2"), "there are 0 on this machine"),
        (("--gpus", "2", "--device", "cpu"), "leave out --device cpu"),
        (("--gpus", "2", "--ray", "local"), "give one of them"),
    ],
)
def test_gpus_that_are_not_there_are_refused_before_anything_runs(bench, more, said):
    refused = CliRunner().invoke(app, ["eval", str(bench[0] / "suite.jsonl"), "--out", str(bench[0] / "run"), *more])
    assert refused.exit_code == 2 and said in refused.output and not (bench[0] / "run").exists()


@pytest.mark.gpu
def test_two_gpus_say_what_one_says(bench, workers):
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs, {torch.cuda.device_count()} there")
    for out, more in (("one", ()), ("two", ("--gpus", "2"))):
        command = ["eval", str(bench[0] / "suite.jsonl"), "--out", str(bench[0] / out), "--streams", "3", "--max-tokens", "2048", *more]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    one, two = ([json.loads(row)["turns"] for row in (bench[0] / out / "traces.jsonl").read_text().splitlines()] for out in ("one", "two"))
    assert one == two
    with Processes(workers.Device, sweep_processes.visible_gpus(2)) as hands:
        assert len({uuid for hand in hands for uuid in hand.run([0])}) == 2
