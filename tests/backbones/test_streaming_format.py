"""streaming.json: the checkpoint's own convention for silent turns, the adapter's before the checkpoint's."""

import json

import pytest

from evostreaming.engine.errors import CheckpointError
from evostreaming.engine.streaming_format import StreamingFormat


def write(directory, **values):
    directory.mkdir(exist_ok=True)
    (directory / "streaming.json").write_text(json.dumps(values))
    return directory


def test_defaults_without_a_file(tmp_path):
    expected = StreamingFormat(silence="SILENT", reply_marker=None, history="full", system=None)
    assert StreamingFormat.from_directories(tmp_path, None) == expected


def test_the_adapters_file_wins(tmp_path):
    weights = write(tmp_path / "weights", silence="...", history="replies")
    adapter = write(tmp_path / "adapter", silence="</Silence>", reply_marker="</Response>", system="Watch.")
    assert StreamingFormat.from_directories(weights, None).silence == "..."
    assert StreamingFormat.from_directories(weights, adapter) == StreamingFormat("</Silence>", "</Response>", "full", "Watch.")
    assert StreamingFormat.from_directories(weights, tmp_path).history == "replies"


@pytest.mark.parametrize(
    "values, reason",
    [
        ({"silense": "x"}, "unknown keys silense; accepted are silence, reply_marker, history, system"),
        ({"silence": ""}, '"silence" is \'\''),
        ({"silence": None}, '"silence" is None'),
        ({"silence": 3}, '"silence" is 3'),
        ({"reply_marker": 1}, '"reply_marker" is 1'),
        ({"reply_marker": ""}, '"reply_marker" is \'\''),
        ({"system": ["a"]}, '"system" is'),
        ({"history": "none"}, 'accepted are "full" and "replies"'),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, values, reason):
    with pytest.raises(CheckpointError) as refusal:
        StreamingFormat.from_directories(write(tmp_path, **values))
    assert reason in str(refusal.value)


def test_malformed_json_is_named(tmp_path):
    (tmp_path / "streaming.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"streaming\.json is not valid JSON"):
        StreamingFormat.from_directories(tmp_path)
