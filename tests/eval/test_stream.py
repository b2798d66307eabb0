"""One frame, one action, nothing of the future: RSE-1.0 section 4, properties 8 and 9."""

from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import pytest

from evostreaming.eval.discretize import Grid
from evostreaming.eval.engine_session import action
from evostreaming.eval.episodes import Query, Target
from evostreaming.eval.stream import Action, sample, stream, stream_together


class Diary:
    """A session that writes down everything it was given, and says a digest of it whenever the frame is a multiple of three."""

    def __init__(self, past=(), open_sessions=None):
        self.past, self.closed, self.open_sessions = list(past), False, open_sessions if open_sessions is not None else [1]

    def step(self, frame, seconds, queries):
        self.past.append((frame, seconds, tuple(q.qid for q in queries)))
        raw = f"saw {hash(tuple(map(str, self.past))) % 10**6}" if frame % 3 == 0 else "</silence>"
        self.past.append(raw)
        return Action(raw, len(raw.split()), 0.01)

    def fork(self):
        self.open_sessions[0] += 1
        return Diary(self.past, self.open_sessions)

    def close(self):
        self.open_sessions[0] -= 1


def still():
    return 0.0


def test_one_action_a_turn_with_the_query_on_its_frame(make_episode):
    episode = make_episode(t_q=7.0)
    trace = stream(episode, range(20), Diary(), "r", clock=still)
    assert [t.k for t in trace.turns] == list(range(20)) and [t.t for t in trace.turns] == [2.0 * k for k in range(20)]
    assert [t.qids_injected for t in trace.turns if t.qids_injected] == [("q",)] and trace.turns[3].qids_injected == ("q",)
    assert [t.silent for t in trace.turns] == [k % 3 != 0 for k in range(20)]


def test_what_comes_later_cannot_change_what_was_done(make_episode):
    episode = make_episode()
    for k in (0, 5, 18):
        plain, canary = list(range(20)), list(range(20))
        canary[k + 1] = 3000
        before, after = (stream(episode, f, Diary(), "r", clock=still).turns for f in (plain, canary))
        assert before[: k + 1] == after[: k + 1] and before[k + 1 :] != after[k + 1 :]


def test_a_frame_is_only_asked_for_on_its_turn(make_episode):
    taken = count()
    session = Diary()
    step = session.step
    lead = []
    session.step = lambda frame, *rest: (lead.append((frame, shown[-1])), step(frame, *rest))[1]
    shown = []

    def frames():
        for _ in range(100):
            shown.append(next(taken))
            yield shown[-1]

    stream(make_episode(), frames(), session, "r")
    assert all(frame == last for frame, last in lead) and len(shown) == 20


def test_forked_traces_equal_dedicated_ones(make_episode):
    base = make_episode(video="v.mp4")
    episodes = [
        replace(base, episode_id=f"e{i}", t_end=t_end, queries=(Query("q", t_q, f"{i}?", "text"),), targets=())
        for i, (t_q, t_end) in enumerate([(0.0, 10.0), (7.0, 38.0), (38.0, 38.0), (7.5, 12.0)])
    ]
    two = (Query("b", 30.0, "?", "text"), Query("a", 3.0, "?", "text"))
    episodes.append(replace(base, queries=two, targets=(Target("g", "a", 3, (3, 4), "x"),)))
    sessions = [1]
    together = stream_together(episodes, range(20), Diary(open_sessions=sessions), "r", clock=still)
    assert together == [stream(e, range(20), Diary(), "r", clock=still) for e in episodes]
    assert sessions == [0], "a session was left open"
    with pytest.raises(ValueError, match="share their video"):
        stream_together([base, replace(base, video="other.mp4")], range(20), Diary(), "r")


def test_a_failing_turn_is_silence_with_its_reason_and_the_stream_goes_on(make_episode):
    session = Diary()
    step = session.step

    def sometimes(frame, *rest):
        if frame == 6:
            raise TimeoutError("too slow")
        return step(frame, *rest)

    session.step = sometimes
    trace = stream(make_episode(), range(15), session, "r", clock=still)
    assert (trace.turns[6].silent, trace.turns[6].err) == (True, "TimeoutError: too slow")
    assert trace.turns[9].text and trace.turns[9].err is None
    assert all(t.err == "EOFError: the video has no frame for this turn" for t in trace.turns[15:])


def test_sampling_takes_the_last_frame_not_after_the_turn():
    decoded = [("a", 0.0), ("b", 0.9), ("c", 1.0), ("d", 2.5), ("e", 3.01)]
    assert list(sample(decoded, Grid(0.0, 1.0, 5))) == ["a", "c", "c", "d", "e"]
    assert list(sample([("late", 0.5)], Grid(0.0, 1.0, 3))) == [None, "late", "late"]
    assert list(sample(decoded, Grid(0.0, 1.0, 5), start=3)) == ["d", "e"]


def test_a_reply_that_the_limit_cuts_is_flagged():
    engine, spent = SimpleNamespace(max_reply=4), SimpleNamespace(total=3.0, reply=1.0)
    done = [action(engine, SimpleNamespace(speak=True, text="x", tokens=n, probability=1.0, latency=spent)) for n in (3, 4)]
    assert [(step.cut, step.n_tok, step.ttft_s) for step in done] == [(False, 3, 0.002), (True, 4, 0.002)]
