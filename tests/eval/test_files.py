"""Episodes and traces on disk: what is written is what is read, and every complaint names line and field."""

import json

import pytest

from evostreaming.eval.episodes import read_episodes, write_episodes
from evostreaming.eval.errors import SchemaError
from evostreaming.eval.traces import read_traces, write_traces

EPISODE = {
    "episode_id": "e0", "suite": "s", "task": "CRR", "regime": "FAR", "video": "a.mp4", "t_start": 0, "t_end": 10, "fps": 0.5,
    "queries": [{"qid": "q", "t_q": 2, "text": "When?", "answer_form": "letter", "options": ["yes", "no"]}],
    "targets": [{"gid": "g", "qid": "q", "t_star": 6, "window": [6, 8], "answer": "A", "aliases": []}],
    "meta": {"video_id": "a", "source_id": 7},
}  # fmt: skip
TRACE = {
    "episode_id": "e0", "run_id": "r",
    "turns": [
        {"k": k, "t": 2 * k, "qids_injected": ["q"] if k == 1 else [], "raw": "A" if k == 3 else "", "text": "A" if k == 3 else None,
         "silent": k != 3, "n_tok": 1, "lat_s": 0.1}
        for k in range(6)
    ],
}  # fmt: skip


def edited(row, path, value):
    row = json.loads(json.dumps(row))
    *parents, last = path
    at = row
    for key in parents:
        at = at[key]
    if value is KeyError:
        del at[last]
    else:
        at[last] = value
    return row


@pytest.fixture
def write(tmp_path):
    def write(name, *rows):
        path = tmp_path / name
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
        return path

    return write


def test_episodes_and_traces_survive_a_round_trip(write, tmp_path):
    episodes = read_episodes(write("e", EPISODE))
    traces = read_traces(write("t", TRACE), episodes)
    write_episodes(tmp_path / "e2", episodes)
    write_traces(tmp_path / "t2", traces.values())
    assert read_episodes(tmp_path / "e2") == episodes
    assert read_traces(tmp_path / "t2", episodes) == traces
    assert episodes[0].queries[0].options == ("yes", "no") and traces["e0"].turns[3].text == "A"


@pytest.mark.parametrize(
    ("path", "value", "field", "says"),
    [
        (("episode_id",), KeyError, "episode_id", "is missing"),
        (("task",), 3, "task", "expected a string, got an integer"),
        (("t_end",), "10", "t_end", "expected a number, got a string"),
        (("t_end",), True, "t_end", "got a boolean"),
        (("t_end",), -1, "t_end", "zero frames"),
        (("fps",), 5, "fps", "outside 0.5 to 2"),
        pytest.param(("t_end",), 10**400, "t_end", "out of range", id="t_end of 400 digits"),
        (("targets", 0, "window"), [6, 10**400], "targets[0].window[1]", "out of range"),
        (("regime",), "FAST", "regime", "'FAST' is not one of RT, BT, FAR"),
        (("queries",), [], "queries", "at least one query"),
        (("queries",), {}, "queries", "expected a list"),
        (("queries", 0, "t_q"), 11, "queries[0].t_q", "outside the episode"),
        (("queries", 0, "answer_form"), "prose", "queries[0].answer_form", "not one of letter"),
        (("queries", 0, "options"), [], "queries[0].options", "2 to 26 options"),
        (("targets", 0, "qid"), "x", "targets[0].qid", "not a query of this episode"),
        (("targets", 0, "window"), [8, 6], "targets[0].window", "before it begins"),
        (("targets", 0, "window"), [8], "targets[0].window", "expected 2 numbers"),
        (("targets", 0, "answer"), "C", "targets[0].answer", "not an option letter"),
        (("targets", 0, "answer"), None, "targets[0].answer", "is null"),
        (("targets", 0, "aliases"), ["A", 1], "targets[0].aliases[1]", "expected a string"),
        (("meta",), [], "meta", "expected a JSON object"),
    ],
)
def test_a_wrong_episode_names_line_and_field(write, path, value, field, says):
    file = write("e", EPISODE, "", edited({**EPISODE, "episode_id": "e1"}, path, value))
    with pytest.raises(SchemaError, match=r"line 3, field ") as caught:
        read_episodes(file)
    assert caught.value.field == field and says in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "field", "says"),
    [
        (("run_id",), KeyError, "run_id", "is missing"),
        (("turns",), [], "turns", "zero frames"),
        (("turns", 2, "k"), 3, "turns[2].k", "expected 2"),
        (("turns", 2, "t"), 2.0, "turns[2].t", "another run or frame rate"),
        (("turns", 2, "silent"), "no", "turns[2].silent", "expected true or false"),
        (("turns", 3, "text"), None, "turns[3].text", "is missing although the turn is not silent"),
        (("turns", 2, "text"), "A", "turns[2].text", "must be null on a silent turn"),
        (("turns", 2, "n_tok"), -1, "turns[2].n_tok", "less than zero"),
        pytest.param(("turns", 2, "n_tok"), 10**400, "turns[2].n_tok", "out of range", id="n_tok of 400 digits"),
        (("turns", 2, "lat_s"), -1, "turns[2].lat_s", "never negative"),
        (("turns", 2, "qid"), "zz", "turns[2].qid", "not a query of the episode"),
        (("turns", 1, "qids_injected"), [], "turns[1].qids_injected", "asks ['q'] here"),
        (("turns", 5), KeyError, "turns", "has 5 turns, but episode 'e0' has 6"),
        (("episode_id",), "other", "episode_id", "trace of another run"),
        (("err",), "no such video", "turns", "holds 6 turns although err"),
    ],
)
def test_a_wrong_trace_names_line_and_field(write, path, value, field, says):
    episodes = read_episodes(write("e", EPISODE))
    with pytest.raises(SchemaError, match=r"line 1, field ") as caught:
        read_traces(write("t", edited(TRACE, path, value)), episodes)
    assert caught.value.field == field and says in str(caught.value)


def test_duplicate_ids_are_refused(write):
    with pytest.raises(SchemaError, match=r"line 2, field episode_id: 'e0' was already used on line 1"):
        read_episodes(write("e", EPISODE, EPISODE))
    episodes = read_episodes(write("e", EPISODE))
    with pytest.raises(SchemaError, match=r"line 2, field episode_id: 'e0' was already traced on line 1"):
        read_traces(write("t", TRACE, TRACE), episodes)
    with pytest.raises(SchemaError, match=r"field targets\[1\].gid: 'g' appears twice"):
        read_episodes(write("e", {**EPISODE, "targets": EPISODE["targets"] * 2}))
    with pytest.raises(SchemaError, match=r"field queries\[1\].qid: 'q' appears twice"):
        read_episodes(write("e", {**EPISODE, "queries": EPISODE["queries"] * 2}))


def test_one_file_holds_one_run(write):
    episodes = read_episodes(write("e", EPISODE, {**EPISODE, "episode_id": "e1"}))
    with pytest.raises(SchemaError, match=r"line 2, field run_id: 'r2' differs from 'r'"):
        read_traces(write("t", TRACE, {**TRACE, "episode_id": "e1", "run_id": "r2"}), episodes)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"episode_id": "e1"', "line 2: not valid JSON"),
        ("[1, 2]", "line 2: expected a JSON object, got a list"),
        (json.dumps(EPISODE).replace('"t_end": 10', '"t_end": NaN'), "line 2: not valid JSON: NaN"),
        (json.dumps(EPISODE).replace('"t_end": 10', '"t_end": 1e999'), "line 2: not valid JSON: 1e999 is out of range"),
    ],
)
def test_what_is_not_json_is_refused_by_line(write, line, says):
    with pytest.raises(SchemaError) as caught:
        read_episodes(write("e", EPISODE, line))
    assert says in str(caught.value)


def test_unreadable_and_empty_files_say_so(write, tmp_path):
    with pytest.raises(SchemaError, match="cannot be read: No such file"):
        read_episodes(tmp_path / "none.jsonl")
    with pytest.raises(SchemaError, match="holds no episode"):
        read_episodes(write("e", "", ""))
    (tmp_path / "latin").write_bytes(b'{"episode_id": "\xe9"}')
    with pytest.raises(SchemaError, match="not UTF-8"):
        read_episodes(tmp_path / "latin")
    with pytest.raises(SchemaError, match="holds no trace"):
        read_traces(write("t", ""), read_episodes(write("e", EPISODE)))


def test_an_episode_that_could_not_be_run_is_a_row_with_its_reason(write):
    episodes = read_episodes(write("e", EPISODE))
    traces = read_traces(write("t", {"episode_id": "e0", "run_id": "r", "turns": [], "err": "a.mp4: no video stream"}), episodes)
    assert traces["e0"].err == "a.mp4: no video stream" and traces["e0"].turns == ()


def test_a_gold_of_thousands_of_digits_is_refused(write):
    counted = edited(EPISODE, ("queries", 0, "answer_form"), "int")
    with pytest.raises(SchemaError, match="not a whole number in digits"):
        read_episodes(write("e", edited(counted, ("targets", 0, "answer"), "9" * 5000)))
