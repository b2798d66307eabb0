"""`pytest benchmarks/bench_<op>.py [--refcheck]`: times of the ops under pytest-benchmark, on a machine with a GPU."""

from itertools import chain

import pytest
import torch

from .cases import run
from .timing import replay_of


def pytest_addoption(parser):
    parser.addoption("--refcheck", action="store_true", help="compare with the truth before timing")


def pytest_generate_tests(metafunc):
    if "shape" in metafunc.fixturenames:
        metafunc.parametrize("shape", metafunc.module.SHAPES)


@pytest.fixture
def keep_time(request):
    """keep_time(cases): one round of pytest-benchmark is a replay of a CUDA graph of many calls, so a call's figures stand beside it."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    if not request.config.pluginmanager.hasplugin("benchmark"):
        pytest.skip("needs pytest-benchmark; `python -m` this bench prints its table without")
    benchmark = request.getfixturevalue("benchmark")

    def one_round(replay):
        replay()
        torch.cuda.synchronize()

    def keep(cases):
        first = next(cases)
        replay, count = replay_of(first.calls)
        benchmark.extra_info["calls in a round"] = count
        benchmark.pedantic(one_round, args=(replay,), rounds=15, warmup_rounds=1)
        benchmark.extra_info |= run(chain([first], cases), request.config.getoption("--refcheck"))

    return keep
