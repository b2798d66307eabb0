"""Scores of episodes: a pure function of the episode, its trace, the judge's verdicts and the settings."""

from collections import Counter
from dataclasses import dataclass

from .answers import sameness
from .discretize import grid, spans
from .event import CLASSES, event_score, quiet_score
from .judges import judge, needs_judge
from .primary import figure_score, is_repeated, primary_score, tolerance
from .responses import backlog, responses
from .settings import DEFAULT


@dataclass(frozen=True, slots=True)
class EpisodeScore:
    """Scores in 0..1; None where there is nothing to score (`S`, `E` of a quiet episode, `Q` of any other) or a verdict is missing.

    Counts are turns, responses, goals (targets after merging) and tokens; times are seconds. `queries` is `{qid: S}`.
    """

    episode_id: str
    task: str
    regime: str
    video_id: str
    S: float | None
    E: float | None
    F: float | None
    Q: float | None
    precision: float | None
    recall: float | None
    queries: dict[str, float | None]
    classes: dict[str, int]
    unscored: int
    goals: int
    missed: int
    turns: int
    active_turns: int
    active_responses: int
    duplicates: int
    minutes: float
    tokens: int
    error_turns: int
    dropped_frames: int
    hit_delays: tuple[float, ...]
    ttft: tuple[float, ...]
    latency: tuple[float, ...]
    backlog: tuple[float, ...]

    @property
    def responses(self):
        return sum(self.classes.values())

    def row(self):
        """What `score --json` prints of an episode."""
        return {
            "episode_id": self.episode_id, "task": self.task, "regime": self.regime, "S": self.S, "E": self.E, "F": self.F, "Q": self.Q,
            "precision": self.precision, "recall": self.recall, "queries": self.queries,
            "turns": self.turns, "active_turns": self.active_turns, "responses": self.responses, "targets": self.goals,
            "answer_rate": self.active_responses / self.active_turns if self.active_turns else None,
            "responses_per_minute": self.responses / self.minutes,
            "classes": self.classes, "unscored": self.unscored, "hit_delays_s": list(self.hit_delays), "error_turns": self.error_turns,
        }  # fmt: skip


def score_episode(episode, trace, text_judge, settings=DEFAULT):
    """The `EpisodeScore` of one trace."""
    turns, asked = grid(episode), spans(episode)
    spoken = responses(trace, asked, turns, settings)
    rule = episode.meta.get("text_rule")
    verdicts = [
        {
            (r.span, j): judge(r.text, asked[r.span].query, goal.golds, text_judge, rule)
            for j, goal in enumerate(asked[r.span].goals)
        } if r.span is not None else {}
        for r in spoken
    ]  # fmt: skip
    targets = [(s, j) for s, span in enumerate(asked) for j in range(len(span.goals))]

    per_query, duplicate = {}, [False] * len(spoken)
    delta = tolerance(episode.regime, episode.fps, settings.delta_s)
    active = 0
    for s, span in enumerate(asked):
        mine = [i for i, r in enumerate(spoken) if r.span == s]
        active += len(mine)
        seen = set()
        for i in mine:
            key = sameness(spoken[i].text, span.query)
            duplicate[i] = key in seen
            seen.add(key)
        if span.goals:
            ks = [spoken[i].k for i in mine]
            per_query[span.query.qid] = primary_score(
                episode.regime, [g.k for g in span.goals], ks, span.turns, delta,
                [[verdicts[i][s, j] for j in range(len(span.goals))] for i in mine],
                is_repeated(ks, [spoken[i].text for i in mine], span.first, span.query), settings.matching,
            )  # fmt: skip

    # A response says nothing about the targets of another query, hence 0 there.
    table = [[v.get(target, 0.0) for target in targets] for v in verdicts]
    windows = [asked[s].goals[j].window for s, j in targets]
    times = [r.t for r in spoken]
    event = event_score(
        windows, times, table, [r.span is not None for r in spoken], duplicate, settings.epsilon, settings.lam, settings.theta
    )
    minutes = max(episode.t_end - episode.t_start, 1 / episode.fps) / 60
    queries_known = all(v is not None for v in per_query.values())
    counts = Counter(event.classes)
    return EpisodeScore(
        episode_id=episode.episode_id, task=episode.task, regime=episode.regime, video_id=episode.video_id,
        S=sum(per_query.values()) / len(per_query) if per_query and queries_known else None,
        E=event.score if targets else None,
        F=_figure(asked, targets, spoken, table, delta, settings) if targets else None,
        Q=None if targets else quiet_score(len(spoken), minutes),
        precision=event.precision if targets else None,
        recall=event.recall if targets else None,
        queries=per_query,
        classes={name: counts[name] for name in CLASSES if counts[name]},
        unscored=sum(v is None for row in verdicts for v in row.values()),
        goals=len(targets),
        missed=len(targets) - len(event.match),
        turns=turns.n,
        # Queries overlap in a shared stream; the turns from the first one on are what the answer rate is over.
        active_turns=max((span.turns for span in asked), default=0),
        active_responses=active,
        duplicates=sum(duplicate),
        minutes=minutes,
        tokens=sum(turn.n_tok for turn in trace.turns),
        error_turns=sum(turn.err is not None for turn in trace.turns),
        dropped_frames=sum(turn.dropped for turn in trace.turns),
        hit_delays=tuple(times[i] - windows[j][0] for i, j in sorted(event.match.items())),
        ttft=tuple(turn.ttft_s for turn in trace.turns if turn.ttft_s is not None),
        latency=tuple(turn.lat_s for turn in trace.turns if turn.lat_s is not None),
        backlog=tuple(backlog(trace, turns)) if settings.clock == "wall" else (),
    )  # fmt: skip


def _figure(asked, targets, spoken, table, delta, settings):
    stars = [asked[s].goals[j].k for s, j in targets]
    solicited = [i for i, r in enumerate(spoken) if r.span is not None]
    return figure_score(
        stars, [spoken[i].k for i in solicited], delta, [table[i] for i in solicited], len(spoken), settings.theta, settings.figure_lambda
    )


def judge_items(episode, trace, settings=DEFAULT):
    """The `(question, golds, response)` triples that `score_episode` will put to the judge of free text."""
    rule = episode.meta.get("text_rule")
    asked = spans(episode)
    if not any(needs_judge(span.query, rule) for span in asked):
        return
    for response in responses(trace, asked, grid(episode), settings):
        if response.span is not None and needs_judge(asked[response.span].query, rule):
            for goal in asked[response.span].goals:
                yield asked[response.span].query.text, goal.golds, response.text


def score_run(episodes, traces, text_judge, settings=DEFAULT):
    """`EpisodeScore`s of every episode with a usable trace, ordered by id; `traces` is `{episode_id: Trace}`."""
    pairs = [(e, traces[e.episode_id]) for e in sorted(episodes, key=lambda e: e.episode_id) if e.episode_id in traces]
    pairs = [(e, t) for e, t in pairs if t.err is None]
    if hasattr(text_judge, "warm"):
        text_judge.warm([item for e, t in pairs for item in judge_items(e, t, settings)])
    return [score_episode(e, t, text_judge, settings) for e, t in pairs]
