"""Tasks, regimes, overall, and when no overall may be given."""

import pytest

from evostreaming.eval.aggregate import aggregate
from evostreaming.eval.judges import LexicalJudge
from evostreaming.eval.scoring import score_run
from evostreaming.eval.settings import Settings

RIGHT = "the kettle boils"


@pytest.fixture
def world(make_episode, make_trace):
    """Two FAR tasks (1 of 2 and 1 of 1 right), one RT task (1 of 4), one BT task (all right)."""
    plan = {"F1": ("FAR", [1, 0]), "F2": ("FAR", [1]), "R1": ("RT", [1, 0, 0, 0]), "B1": ("BT", [1, 1])}
    episodes, traces = [], {}
    for task, (regime, hits) in plan.items():
        for i, hit in enumerate(hits):
            episodes.append(make_episode(f"{task}-{i}", regime=regime, task=task, t_q=20.0, video=f"v{i}.mp4"))
            traces[f"{task}-{i}"] = make_trace(episodes[-1], {10: RIGHT} if hit else {})
    return episodes, traces


def test_mean_of_episodes_then_tasks_then_regimes(world):
    episodes, traces = world
    tables = aggregate(episodes, score_run(episodes, traces, LexicalJudge()))
    assert {t: r["S"] for t, r in tables["tasks"].items()} == {"B1": 100.0, "F1": 50.0, "F2": 100.0, "R1": 25.0}
    assert {t: r["S"] for t, r in tables["regimes"].items()} == {"BT": 100.0, "RT": 25.0, "FAR": 75.0}
    assert tables["overall"]["S"] == pytest.approx(200 / 3)
    assert tables["overall"]["E"] == 75.0, "the overall E is that of the forward tasks"
    assert tables["episodes"] == "9/9" and tables["incomplete"] == tables["invalid"] == []


def test_intervals_are_over_videos_and_reproducible(world):
    episodes, traces = world
    scores = score_run(episodes, traces, LexicalJudge())
    first, second = aggregate(episodes, scores), aggregate(episodes[::-1], scores)
    assert first == second
    low, high = first["tasks"]["R1"]["S_ci95"]
    assert low == 0.0 and 50 < high <= 100
    assert first["tasks"]["B1"]["S_ci95"] == [100.0, 100.0]
    alone = [e for e in episodes if e.video == "v3.mp4"]
    assert aggregate(alone, [s for s in scores if s.episode_id == "R1-3"])["tasks"]["R1"]["S_ci95"] is None, (
        "one video says nothing of others"
    )


def test_a_missing_episode_forbids_the_overall_unless_partial_is_allowed(world):
    episodes, traces = world
    del traces["R1-0"]
    scores = score_run(episodes, traces, LexicalJudge())
    tables = aggregate(episodes, scores)
    assert (tables["overall"]["S"], tables["episodes"]) == (None, "8/9")
    assert tables["incomplete"] == ["1 of 9 episodes have no usable trace"]
    assert tables["tasks"]["R1"]["expected"] == 4
    assert aggregate(episodes, scores, allow_partial=True)["overall"]["S"] == pytest.approx((100 + 0 + 75) / 3)


def test_a_missing_verdict_forbids_the_overall_and_leaves_the_mean(world):
    episodes, traces = world
    judge = lambda question, golds, response: None  # noqa: E731
    judge.name = judge.prompt_hash = None
    tables = aggregate(episodes, score_run(episodes, traces, judge))
    assert tables["overall"]["S"] is None and tables["incomplete"] == [
        "5 verdicts are missing: the judge was unreachable or answered rubbish"
    ]
    assert (tables["tasks"]["B1"]["S"], tables["tasks"]["R1"]["S"]) == (None, 0.0)


def test_more_than_one_percent_of_failed_turns_makes_a_run_invalid(world):
    episodes, traces = world
    bad = traces["R1-1"]
    for share, invalid in ((1, []), (2, ["2 of 180 turns failed, more than 1%"])):
        turns = tuple(t._replace(err="boom") if t.k < share else t for t in bad.turns)
        traces["R1-1"] = type(bad)(bad.episode_id, bad.run_id, turns)
        tables = aggregate(episodes, score_run(episodes, traces, LexicalJudge()), allow_partial=True)
        assert tables["invalid"] == invalid and (tables["overall"]["S"] is None) == bool(invalid)


def test_diagnostics_of_a_task(make_episode, make_trace):
    episodes = [make_episode("a"), make_episode("b", t_end=58.0)]
    traces = {
        "a": make_trace(episodes[0], {2: "hm", 11: RIGHT, 12: RIGHT}, ttft_s=0.1, lat_s=0.2),
        "b": make_trace(episodes[1], {4: RIGHT, 29: "hm"}, ttft_s=0.3, lat_s=0.4),
    }
    row = aggregate(episodes, score_run(episodes, traces, LexicalJudge()))["tasks"]["FAR"]
    assert row["answer_rate"] == 5 / 50
    assert row["false_alarms_per_minute"] == pytest.approx(4 / (96 / 60))
    assert (row["early_rate"], row["duplicate_ratio"], row["miss_rate"]) == (1 / 5, 1 / 5, 1 / 2)
    assert (row["hit_delay_median_s"], row["tokens_per_turn"]) == (2.0, 1.0)
    assert (row["ttft_p50_s"], row["latency_p95_s"]) == (pytest.approx(0.3), pytest.approx(0.4))
    assert row["classes"] == {"early": 1, "hit": 1, "repeat": 1, "spurious": 2}


def test_on_the_wall_clock_a_response_counts_when_its_first_token_is_there(make_episode, make_trace):
    episode = make_episode()
    slow = {"e": make_trace(episode, {10: RIGHT}, ttft_s=2.5, lat_s=3.0)}
    (video,) = score_run([episode], slow, LexicalJudge())
    (wall,) = score_run([episode], slow, LexicalJudge(), Settings(clock="wall"))
    # Every turn takes 3 s and frames come every 2: turn 10 starts at 30 s, its first token is there at 32.5 s.
    assert (1.0, 1.0, 0.0, pytest.approx(0.5)) == (video.S, video.E, wall.S, wall.E)
    assert wall.backlog[10] == 10.0 and wall.hit_delays == (12.5,)


def test_tasks_of_one_name_in_two_suites_are_kept_apart(make_episode, make_trace):
    episodes = [make_episode("a", suite="x"), make_episode("b", suite="y")]
    traces = {"a": make_trace(episodes[0], {10: RIGHT}), "b": make_trace(episodes[1], {})}
    tasks = aggregate(episodes, score_run(episodes, traces, LexicalJudge()))["tasks"]
    assert {name: row["S"] for name, row in tasks.items()} == {"x/FAR/FAR": 100.0, "y/FAR/FAR": 0.0}
