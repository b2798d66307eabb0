"""The projection of the evaluation bench: its slice is spread over all lengths, and its peer is priced by what it would do."""

from functools import partial

import pytest

from evostreaming.benchmarks.bench_eval import EVERY, REPLY, WINDOW_TOKENS, between, choose, forked_seconds, peer_seconds
from evostreaming.benchmarks.bench_eval_gpus import Synthetics, measure, slice_of
from evostreaming.eval.episodes import Episode, Query
from evostreaming.eval.sweep_plan import plan_bundles, plan_watches


def episode(name, video, t_q, t_end):
    return Episode(name, "s", "RT", "RT", video, 0.0, t_end, 0.5, (Query("q", t_q, "?", "text"),), ())


def test_the_slice_holds_what_was_asked_for_of_short_and_long_videos():
    episodes = [episode(f"e{i}", f"v{i}", 10.0 * i, 10.0 * i + 4) for i in range(60)]
    bundles = plan_bundles(plan_watches(episodes, {e.video: e.video for e in episodes}), 4)
    turns = [sum(watch.turns for watch in bundle) for bundle in bundles]
    chosen = choose(bundles, 0.1)
    share = sum(watch.turns for bundle in chosen for watch in bundle) / sum(turns)
    assert 0.1 <= share < 0.2
    places = [bundles.index(bundle) for bundle in chosen]
    assert min(places) < len(bundles) / 3 and max(places) >= len(bundles) / 2


def test_between_measured_contexts_times_are_linear_and_outside_flat():
    rows = [(100, 1.0, 10.0), (300, 3.0, 30.0)]
    assert [between(rows, context, 1) for context in (0, 100, 200, 300, 900)] == [1.0, 1.0, 2.0, 3.0, 3.0]
    assert between(rows, 150, 2) == 15.0


def test_a_stream_of_the_peer_pays_every_turn_at_its_own_context_up_to_the_window():
    rows = [(0, 1.0, 0.0), (WINDOW_TOKENS, 2.0, 0.0)]
    half = WINDOW_TOKENS // 2
    assert peer_seconds(rows, [3], half) == 1.0 + 1.5 + 2.0
    assert peer_seconds(rows, [5, 3], half) == (1.0 + 1.5 + 3 * 2.0) + (1.0 + 1.5 + 2.0)
    assert peer_seconds([(0, 1.0, 0.5)], [10], 1) == pytest.approx(10 * (1.0 + REPLY / EVERY * 0.5))


def test_forked_the_peer_pays_the_frames_before_a_query_once():
    rows = [(0, 1.0, 0.0)]
    episodes = [episode("a", "v", 20.0, 24.0), episode("b", "v", 40.0, 44.0)]
    watches = plan_watches(episodes, {"v": "v"})
    assert peer_seconds(rows, [13, 23], 1) == 36.0
    assert forked_seconds(rows, watches, 1) == 20.0 + 3.0 + 3.0 == sum(watch.turns for watch in watches)


def test_the_slice_for_several_gpus_has_no_bundle_that_the_others_would_wait_for():
    episodes = [episode(f"e{i}", f"v{i}", 10.0 * i, 10.0 * i + 4) for i in range(200)]
    bundles = plan_bundles(plan_watches(episodes, {e.video: e.video for e in episodes}), 2)
    turns = [sum(watch.turns for watch in bundle) for bundle in slice_of(bundles, 0.2)]
    whole = sum(watch.turns for bundle in bundles for watch in bundle)
    assert 0.2 * whole <= sum(turns) < 0.25 * whole and max(turns) <= 0.02 * whole


def test_one_engine_and_two_run_the_same_slice_and_their_ratio_is_that_of_the_seconds(capsys):
    episodes = [episode(f"e{i}", f"v{i}", 4.0 + 2 * i, 12.0 + 2 * i) for i in range(6)]
    bundles = plan_bundles(plan_watches(episodes, {e.video: e.video for e in episodes}), 4)
    assert len(bundles) > 2
    result = measure(["", ""], bundles, partial(Synthetics, None, "tiny", 4))
    assert result["episodes_that_said_the_same"] == result["episodes"] == 6
    assert result["ratio"] == result["seconds_one"] / result["seconds_all"] and result["turns"] > 50
    assert "first pass on all" in capsys.readouterr().out
