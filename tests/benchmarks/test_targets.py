"""The table of targets reads the right row of a bench's result, and says met only of what is met."""

import pytest

from evostreaming.benchmarks.bench_report import target_lines
from evostreaming.benchmarks.targets import TARGETS, reached


def row(context, streams, tokens, p50, p99):
    asked = {"context": context, "streams": streams, "tokens_per_frame": tokens}
    total = {"p50": p50, "p99": p99}
    return {"asked": asked, "tokens_per_frame": tokens, "total": total, "frames_per_second": 1e3 * streams / p50, "reply_ms_per_token": 4.0}


@pytest.fixture
def result():
    rows = [row(8192, 1, 256, 11.0, 11.5), row(4096, 1, 256, 5.0, 50.0), row(8192, 8, 256, 80.0, 81.0), row(32768, 1, 256, 12.0, 13.0)]
    return {
        "size": "qwen2.5-vl-7b", "machine": {"device": "NVIDIA H200"}, "dtype": "bfloat16", "quantization": None,
        "rows": rows,
        "peers": [
            {"peer": "plain PyTorch, one CUDA graph", "context": 4111, "ratio": 9.0},
            {"peer": "plain PyTorch, one CUDA graph", "context": 8400, "ratio": 1.7},
        ],
        "scan": [{"silent": 1.0, "ratio": 1.5}, {"silent": 0.9, "ratio": 1.1}],
        "long_stream": {"frames": 14400, "drift_percent": -0.5},
    }  # fmt: skip


def verdicts(result):
    return {target.what: (pytest.approx(value, abs=1e-3), target.verdict(value)) for target, value in reached(result)}


def test_every_target_that_was_measured_is_judged_by_its_own_row(result):
    assert verdicts(result) == {
        "step p50, ms": (11.0, "met"),
        "its p99 over its p50": (11.5 / 11, "moonshot"),
        "step p50, 32k context, ms": (12.0, "moonshot"),
        "frames/s, 8 streams": (100.0, "missed"),
        "reply, ms a token": (4.0, "met"),
        "drift over two hours, %": (-0.5, "moonshot"),
        "times faster than plain PyTorch in a graph": (1.7, "met"),
        "scan over stepping, 9 of 10 turns silent": (1.1, "missed"),
    }


def test_targets_of_fp8_are_judged_by_a_bench_in_fp8_and_no_others(result):
    result["quantization"], result["long_stream"]["frames"] = "fp8", 200
    del result["scan"]
    assert verdicts(result) == {
        "step p50, fp8, ms": (11.0, "missed"),
        "frames/s, 8 streams, fp8": (100.0, "missed"),
        "reply, fp8, ms a token": (4.0, "missed"),
    }


@pytest.mark.parametrize("change", [{"size": "qwen3-vl-8b"}, {"machine": {"device": "NVIDIA A100"}}, {"dtype": "float16"}])
def test_another_model_machine_or_dtype_has_no_targets(result, change):
    assert reached(result | change) == [] and target_lines(reached(result | change)) == []


def test_the_table_names_both_bounds(result):
    text = "\n".join(target_lines(reached(result)))
    assert "| step p50, ms | ≤ 12.0 | ≤ 9.0 | 11.00 | met |" in text
    assert "| frames/s, 8 streams | ≥ 110 | ≥ 128 | 100.00 | missed |" in text
    assert all(target.moonshot is None or (target.moonshot > target.must) == target.more for target in TARGETS)
