"""Two models' commentaries before a judge: both orders, win rates, what is left out, and what an unreachable judge means."""

import json

import pytest
from typer.testing import CliRunner

from evostreaming.cli import app
from evostreaming.eval import llm_judge
from evostreaming.eval.episodes import write_episodes
from evostreaming.eval.judges import LexicalJudge
from evostreaming.eval.llm_judge import LLMJudge
from evostreaming.eval.pairwise import CHARACTERS, LIVELIER, NEARER, duel, read_choice
from evostreaming.eval.records import read_jsonl
from evostreaming.eval.scorecard import scorecard
from evostreaming.eval.suites import infstreams, livesports3k
from evostreaming.eval.traces import write_traces


class Bench:
    """A judge that holds the votes of `answers` in turn, or calls `choose(reference, first, second)`."""

    def __init__(self, choose):
        self.choose, self.asked = choose, []

    def prefer(self, contest, orders):
        self.asked += [(contest, *order) for order in orders]
        return [self.choose(*order) for order in orders]


def longer(reference, first, second):
    return 0.5 if len(first) == len(second) else float(len(first) > len(second))


def test_every_passage_is_shown_in_both_orders_and_a_tie_wins_nothing():
    judge = Bench(longer)
    result = duel(NEARER, judge, [("r", "mine is long", "other"), ("r", "same", "same"), ("s", "a", "bb"), ("s", "aaa", "bb")])
    assert judge.asked[:2] == [(NEARER, "r", "mine is long", "other"), (NEARER, "r", "other", "mine is long")]
    assert result == {"win_rate": 50.0, "orders_disagree": 0.0, "compared": 4, "unscored": 0}


def test_a_judge_that_favors_the_first_place_gives_half_and_shows_in_the_disagreement():
    result = duel(NEARER, Bench(lambda *order: 1.0), [("r", "a", "b")] * 3)
    assert (result["win_rate"], result["orders_disagree"]) == (50.0, 100.0)
    both = duel(NEARER, Bench(lambda reference, first, second: 1.0 if first == "a" else 0.5), [("r", "a", "b")])
    assert (both["win_rate"], both["orders_disagree"]) == (50.0, 100.0), "won in one order, a tie in the other"


def test_a_missing_vote_makes_the_rates_unknown_not_zero():
    result = duel(NEARER, Bench(lambda reference, first, second: None if first == "b" else 1.0), [("r", "a", "b"), ("r", "c", "d")])
    assert result == {"win_rate": None, "orders_disagree": None, "compared": 2, "unscored": 1}
    assert duel(NEARER, Bench(longer), [])["win_rate"] is None


@pytest.mark.parametrize(
    ("reply", "choice"),
    [("Commentary A", 1.0), ("**Commentary B** is nearer than Commentary A.", 0.0), ("B", 0.0), ("a.", 1.0), ("(B)", 0.0), ("A tie", 1.0),
     ("<think>Commentary A?</think>Commentary B", 0.0), ("It is a tie.", 0.5), ("Both are equally good", 0.5), ("Sorry", None), ("", None),
     ("Because", None)],
)  # fmt: skip
def test_choices(reply, choice):
    assert read_choice(reply) == choice


@pytest.mark.parametrize("contest", [NEARER, LIVELIER])
def test_a_judge_reads_both_texts_and_the_reference_up_to_a_limit(contest):
    prompt = contest.ask(" on {air} ", "x" * 9000, "second")
    assert "on {air}" in prompt and "x" * CHARACTERS in prompt and "x" * (CHARACTERS + 1) not in prompt
    assert prompt.index("xxx") < prompt.index("second")


def test_without_a_model_the_text_with_more_of_the_words_is_preferred():
    orders = [("a shot on goal", "shot on goal", "a pass"), ("a shot on goal", "a pass", "shot on goal"), ("x", "y", "z")]
    assert LexicalJudge().prefer(NEARER, orders) == [1.0, 0.0, 0.5]


class Answers(LLMJudge):
    """Answers by `script(prompt)` instead of over the wire; None: cannot be reached."""

    def __init__(self, script, cache=None):
        super().__init__("http://judge/v1", "m", cache, retries=1, backoff_s=0.0)
        self.script, self.prompts = script, []

    def _post(self, prompt):
        self.prompts.append(prompt)
        reply = self.script(prompt)
        if reply is None:
            raise llm_judge._Failed("nobody there")
        return reply


def test_a_model_is_asked_once_for_each_order_and_never_again(tmp_path):
    orders = [("r", "kick", "save"), ("r", "save", "kick")]
    choose = lambda prompt: "Commentary A" if prompt.index("kick") < prompt.index("save") else "Commentary B"  # noqa: E731
    first = Answers(choose, tmp_path / "votes.jsonl")
    assert first.prefer(NEARER, orders) == [1.0, 0.0] and len(first.prompts) == 2
    again = Answers(choose, tmp_path / "votes.jsonl")
    assert again.prefer(NEARER, orders) == [1.0, 0.0] and again.prompts == []
    assert again.prefer(LIVELIER, orders[:1]) == [1.0] and len(again.prompts) == 1, "another question, another vote"
    assert again("r", ("kick",), "save") is None, "a grade is not a vote"


def test_rubbish_and_silence_are_unscored(tmp_path):
    for reply in ("no idea", None):
        judge = Answers(lambda prompt: reply, tmp_path / "votes.jsonl")  # noqa: B023
        assert judge.prefer(NEARER, [("r", "a", "b")]) == [None] and judge.last_error and len(judge.cache) == 0


EVENT = {"video": "syn.mp4", "video_id": "syn", "event_id": 4, "begin": 10.0, "end": 18.0, "event_title": "final", "preasr_text": "",
         "event_asr_text": "and there is the shot"}  # fmt: skip
GAME = {"video": "Football/game.mp4", "title": "A vs B", "preasr": "", "content": [[1000, 1001, "He shoots"], [1105.5, 1107, "and scores"]]}


@pytest.fixture
def files(tmp_path, make_trace):
    """`files(suite, said, rival)` writes episodes, the run's traces and a rival's texts; gives the three paths."""

    def write(suite, said, rival):
        name, row = {"livesports3k": ("LiveSports-3K-CC.json", [EVENT, {**EVENT, "event_id": 5}]),
                     "infstreams": ("eval_all_metadata.jsonl", GAME)}[suite.__name__.rpartition(".")[2]]  # fmt: skip
        (tmp_path / name).write_text(json.dumps(row) + "\n")
        episodes = suite.read(tmp_path)
        write_episodes(tmp_path / "episodes.jsonl", episodes)
        write_traces(tmp_path / "traces.jsonl", [make_trace(e, said) for e in episodes])
        (tmp_path / "rival.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rival))
        return [str(tmp_path / f"{name}.jsonl") for name in ("episodes", "traces", "rival")]

    return write


def score(episodes, traces, *more):
    done = CliRunner().invoke(app, ["score", episodes, traces, "--json", *more])
    return done, json.loads(done.stdout.splitlines()[0]) if done.exit_code == 0 else None


def test_livesports_against_published_captions(files):
    # The captions' file of the benchmark: showlab/livecc, evaluation/livesports3kcc/captions/*.jsonl.
    rival = [{"video_id": "syn", "event_id": 4, "begin": 10.0, "end": 18.0, "pred": "A man walks."}]
    episodes, traces, captions = files(livesports3k, {0: "There is", 3: "the shot"}, rival)
    done, card = score(episodes, traces, "--against", captions)
    assert card["official"]["livesports3k"]["against"] == {
        "win_rate": 100.0, "orders_disagree": 0.0, "compared": "1/2", "unscored": 0,
    }  # fmt: skip
    assert len(card["header"]["against_sha256"]) == 64 and "against" not in str(card["header"]["incomplete"])
    done = CliRunner().invoke(app, ["score", episodes, traces, "--against", captions])
    assert "livesports3k · against · win_rate" in done.output and "100.00" in done.output


def test_infstreams_against_published_texts_and_only_what_both_cover(files):
    # One game a line, as mit-han-lab/streaming-vlm merges them (streaming_vlm/eval/model_compete/score_segments.py).
    items = [{"start_time": 1000, "end_time": 1001, "response": "He shoots"}, {"start_time": 1099, "end_time": 1100.7, "text": "and waits"},
             {"start_time": 1100, "end_time": 1101, "text": "and scores"}]  # fmt: skip
    rival = [{"video": "game.mp4", "chunk_start": 1000, "chunk_end": 1100, "items": items}]
    episodes, traces, merged = files(infstreams, {0: "He shoots", 100: "Goal"}, rival)
    _, card = score(episodes, traces, "--against", merged)
    found = card["official"]["infstreams"]["against"]
    assert found["compared"] == "1/2", "the second stretch is not in the rival's chunk"
    (game,) = infstreams.read(merged.replace("rival", "eval_all_metadata"))
    rows = infstreams.passages([game], read_jsonl(merged))
    assert rows == {("game.mp4", 0): "He shoots and waits"}, "(first, last] in whole seconds, as in the benchmark"


def test_against_another_run_of_ones_own(files, make_trace, tmp_path):
    episodes, traces, rival = files(livesports3k, {0: "there is the shot"}, [])
    write_traces(rival, [make_trace(e, {0: "nothing"}, run_id="other") for e in livesports3k.read(tmp_path)])
    assert score(episodes, traces, "--against", rival)[1]["official"]["livesports3k"]["against"]["win_rate"] == 100.0
    assert score(episodes, rival, "--against", traces)[1]["official"]["livesports3k"]["against"]["win_rate"] == 0.0


def test_what_cannot_be_compared_is_said(files, tmp_path, make_episode, make_trace):
    episodes, traces, rival = files(livesports3k, {}, [{"video_id": "syn", "event_id": 4}])
    done, _ = score(episodes, traces, "--against", rival)
    assert done.exit_code == 3 and "rival.jsonl, line 1, field pred: is missing" in done.output
    write_episodes(tmp_path / "e.jsonl", [make_episode("e")])
    write_traces(tmp_path / "t.jsonl", [make_trace(make_episode("e"), {})])
    done, _ = score(str(tmp_path / "e.jsonl"), str(tmp_path / "t.jsonl"), "--against", rival)
    assert done.exit_code == 2 and "--against is for livesports3k and infstreams" in done.output


def test_a_judge_out_of_reach_makes_the_comparison_incomplete(files):
    episodes, traces, captions = files(livesports3k, {0: "x"}, [{"video_id": "syn", "event_id": 4, "pred": "A man walks."}])
    card = scorecard(episodes, traces, Answers(lambda prompt: None), against=captions)
    assert card["official"]["livesports3k"]["against"]["win_rate"] is None
    assert "livesports3k: 2 comparisons are unscored" in card["header"]["incomplete"]
