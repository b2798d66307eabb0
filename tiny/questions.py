"""Every question the world can answer about a stretch of a scene, with the answer, when it became known, and where it can be seen."""

from dataclasses import dataclass
from itertools import pairwise, permutations

from .lexicon import ACTIONS, COLORS, PLACES, REPEATED, SHAPES, STEPS
from .sentences import clause, in_present
from .stage import HOLD
from .wordings import wordings

NUMBERS = tuple(str(i) for i in range(10))
DOING = tuple(v[0] for v in ACTIONS.values()) + ("resting",)
UNKNOWN = "cannot tell"
NOT_YET = "Not yet."
YES_NO = ("yes", "no")


@dataclass(frozen=True)
class Question:
    """One computable question.

    `fill`: what goes into the wording's slots. `answer`: its exact text at the end of the stretch. `choices`: what wrong options are drawn
    from (empty: only asked open). `since`: seconds from which this answer has been supported. `evidence`: [from, to) stretches of
    the whole scene in which something bearing on the question is to be seen. `open`: whether it makes sense without options.
    """

    task: str
    category: str
    fill: tuple
    answer: str
    choices: tuple
    since: float
    evidence: tuple = ()
    open: bool = True

    def text(self, template: str) -> str:
        return template.format(**dict(self.fill))

    def texts(self, held_out: bool = False) -> list[str]:
        return [self.text(t) for t in wordings(self.task, held_out)]


class Asker:
    """The questions of `scene` when it has been watched from `t0` to `t1` (both settled times)."""

    def __init__(self, scene, t0: float, t1: float):
        self.scene, self.t0, self.t1 = scene, t0, t1
        self.shown = [t for t in scene.things if t.visible(t1)]
        self.seen = [t for t in scene.things if t.seen(t0, t1)]
        self.past = [e for e in scene.events if t0 < e.start and e.end - 0.3 < t1 and e.start < t1]

    def ask(self, task: str) -> list[Question]:
        """All questions of one task, in a fixed order; empty when the stretch gives none."""
        return list(getattr(self, f"_{task}")())

    def _make(self, task, category, answer, choices=(), since=None, evidence=(), open=True, **fill):
        since = self.t0 if since is None else since
        return Question(task, category, tuple(fill.items()), answer, tuple(choices), since, tuple(evidence), open)

    # --- now ---
    def _sign(self):
        for since, digit in [d for d in self.scene.digits if d[0] <= self.t1][-1:]:
            yield self._make("sign", "IV", str(digit), NUMBERS, since, [(0, self.scene.duration)])

    def _color(self):
        for x in self.shown:
            yield self._make("color", "IV", x.color(self.t1), COLORS, x.spans[0][0], x.spans, shape=x.shape)

    def _shape(self):
        for x in self.shown:
            yield self._make("shape", "IV", x.shape, SHAPES, x.spans[0][0], x.spans, color=x.color(self.t1))

    def _where(self):
        for x in self.shown:
            if x.place(self.t1):
                yield self._make("where", "IV", x.place(self.t1), PLACES, x.arrived(self.t1), x.spans, name=x.name(self.t1))

    def _action(self):
        for x in self.shown:
            now = [e for e in self._acts(x) if e.start <= self.t1 < e.end]
            doing, since = (ACTIONS[now[0].kind][0], now[0].start) if now else ("resting", self.t1)
            if now or not any(e.kind == "stack" and e.who == x.number and e.start <= self.t1 < e.end for e in self.scene.events):
                yield self._make("action", "IV", doing, DOING, since, x.spans, name=x.name(self.t1))

    def _present(self):
        hidden = [t.name(self.t1) for t in self.scene.things if t not in self.shown]
        others = hidden + [f"{c} {s}" for c, s in zip(COLORS, SHAPES) if s not in {t.shape for t in self.scene.things}]
        for x in self.shown:
            yield self._make("present", "IV", x.name(self.t1), others, x.spans[0][0], x.spans, open=False)

    def _left(self):
        for a, b in permutations([x for x in self.shown if x.place(self.t1)], 2):
            gap = PLACES[b.place(self.t1)][0] - PLACES[a.place(self.t1)][0]
            if abs(gap) > 0.1:
                answer = "yes" if gap > 0 else "no"
                yield self._make("left", "IV", answer, YES_NO, self.t1, a.spans, name=a.name(self.t1), other=b.name(self.t1))

    def _top(self):
        for a in self.shown:
            for since, number in a.on:
                below = self.scene.things[number]
                if since < self.t1 and below in self.shown and a.spans[-1][1] > self.t1:
                    others = [x.name(self.t1) for x in self.scene.things if x not in (a, below)] + ["black board"]
                    yield self._make("top", "IV", a.name(self.t1), others, since, [(since, a.spans[-1][1])], name=below.name(self.t1))

    # --- so far ---
    def _things(self):
        yield self._make("things", "TA", str(len(self.shown)), NUMBERS[:7], self.t1, [(0, self.scene.duration)])

    def _count(self):
        for x in self.shown:
            for kind in REPEATED:
                runs = [e for e in self._acts(x) if e.kind == kind]
                done = [e for e in runs if e.start < self.t1 and e.end > self.t0]
                if runs:
                    spans = [(e.start, e.end) for e in runs]
                    yield self._make(
                        "count",
                        "TA",
                        str(len(done)),
                        NUMBERS,
                        done[-1].start if done else self.t0,
                        spans,
                        name=x.name(self.t1),
                        act=kind,
                        past=ACTIONS[kind][1],
                    )

    def _kinds(self):
        yield self._make(
            "kinds",
            "TA",
            str(len(self.seen)),
            NUMBERS[:7],
            max([t.spans[0][0] for t in self.seen], default=0),
            [(t.spans[0][0], t.spans[0][0] + HOLD) for t in self.scene.things],
        )

    def _steps(self):
        done = [e for e in self.scene.events if e.kind == "step" and e.start < self.t1 and e.end > self.t0]
        if self.scene.recipe:
            spans = [(e.start, e.end) for e in self.scene.events if e.kind == "step"]
            yield self._make("steps", "TA", str(len(done)), NUMBERS[:7], done[-1].start if done else self.t0, spans)

    # --- earlier ---
    def _arrivals(self):
        return [e for e in self.past if e.kind == "appear"]

    def _first(self, task="first", pick=0):
        came = self._arrivals()
        if len(came) > 1:
            names = [clause(self.scene, e).removeprefix("the ").removesuffix(" appeared") for e in came]
            since = came[1 if pick == 0 else -1].start
            yield self._make(
                task,
                "MD",
                names[pick],
                [n for n in names if n != names[pick]] + ["black board"],
                since,
                [(e.start, e.start + HOLD) for e in came],
            )

    def _last(self):
        yield from self._first("last", -1)

    def _gone(self):
        for x in self.seen:
            if not x.visible(self.t1):
                yield self._make("gone", "MD", x.color(self.t1), COLORS, x.spans[-1][1], x.spans, shape=x.shape)

    def _did(self):
        names = [x.name(self.t1) for x in self.seen]
        for x in self.seen:
            if len(x.hues) == 1:
                yield self._make("did", "MD", "yes", YES_NO, x.spans[0][0], x.spans, name=x.name(self.t1))
                wrong = next(c for c in COLORS if f"{c} {x.shape}" not in names and c != x.hues[0][1])
                yield self._make("did", "MD", "no", YES_NO, self.t1, x.spans, name=f"{wrong} {x.shape}")
        absent = [s for s in SHAPES if s not in {x.shape for x in self.scene.things}]
        for shape, x in zip(absent, self.seen):
            yield self._make("did", "MD", "no", YES_NO, self.t1, (), name=f"{x.color(self.t1)} {shape}")

    def _old_sign(self):
        shown = [d for d in self.scene.digits if d[0] <= self.t1]
        if len(shown) > 1 and shown[-1][0] > self.t0 + 0.4:
            span = (shown[-2][0], shown[-1][0])
            yield self._make("old_sign", "MD", str(shown[-2][1]), NUMBERS, shown[-1][0], [span])

    def _old_color(self):
        for e in self.past:
            if e.kind == "recolor":
                x = self.scene.things[e.who]
                seen = [(x.spans[0][0], e.end + HOLD)]
                yield self._make("old_color", "MD", x.color(e.start), COLORS, e.start, seen, shape=x.shape, color=e.value)

    def _absent(self):
        missing = [s for s in SHAPES if s not in {x.shape for x in self.scene.things}]
        for shape, color in zip(missing, COLORS):
            yield self._make("absent", "MD", UNKNOWN, (), self.t1, (), shape=shape, name=f"{color} {shape}")

    def _plain_events(self):
        """Events that happen once and have a name of their own, each apart from the next by at least one frame."""
        kinds = ("appear", "leave", "recolor", "stack")
        return [e for e in self.past if e.kind in kinds]

    def _order(self):
        events = self._plain_events()
        for a, b in permutations(events, 2):
            if abs(a.start - b.start) >= HOLD:
                first = min(a, b)
                one, two = clause(self.scene, a), clause(self.scene, b)
                seen = [(a.start, a.end), (b.start, b.end)]
                yield self._make("order", "MD", clause(self.scene, first), (one, two), max(a, b).start, seen, one=one, two=two)

    def _after(self):
        events = self._plain_events()
        apart = all(b.start - a.start >= HOLD for a, b in pairwise(events))
        for a, b in pairwise(events):
            if apart:
                others = [clause(self.scene, e) for e in events if e not in (a, b)]
                others += [f"the {x.name(self.t0)} left" for x in self.shown]
                one, then = clause(self.scene, a), clause(self.scene, b)
                yield self._make("after", "DED", then, others, b.start, [(b.start, b.end + HOLD)], one=one)

    # --- the cook ---
    def _started(self):
        return [e for e in self.scene.events if e.kind == "step" and e.start < self.t1]

    def _step(self):
        for e in self._started()[-1:]:
            if self.t1 < e.end:
                yield self._make("step", "IV", e.value, STEPS, e.start, [(s.start, s.end) for s in self.scene.events if s.kind == "step"])

    def _is_step(self):
        for e in self._started()[-1:]:
            if self.t1 < e.end:
                yield self._make("is_step", "AM", "yes", YES_NO, e.start, [(e.start, e.end)], step=e.value)
                wrong = STEPS[(STEPS.index(e.value) + 1 + len(self.scene.events)) % len(STEPS)]
                if wrong != e.value:
                    yield self._make("is_step", "AM", "no", YES_NO, e.start, (), step=wrong)

    def _next_step(self):
        steps = [e for e in self.scene.events if e.kind == "step"]
        done = len(self._started())
        if 1 < done < len(steps) and steps[0].start > self.t0:
            since = steps[done - 1].start
            yield self._make("next_step", "DED", steps[done].value, STEPS, since, [(steps[done - 1].start, steps[done].end)])

    def _step_after(self):
        done = [e for e in self._started() if e.start > self.t0]
        for a, b in pairwise(done):
            yield self._make("step_after", "DED", b.value, STEPS, b.start, [(b.start, b.end)], step=a.value)

    def _next_sign(self):
        shown = [d for d in self.scene.digits if self.t0 - 3 < d[0] <= self.t1]
        if self.scene.sign_mode in ("up", "down") and len(shown) > 2:
            after = shown[-1][1] + (1 if self.scene.sign_mode == "up" else -1)
            if 0 <= after <= 9:
                yield self._make("next_sign", "DED", str(after), NUMBERS, shown[-1][0], [(shown[-1][0], shown[-1][0] + 8)])

    # --- waiting ---
    def _awaited(self):
        """(clause, the event or None when it has not come): each thing that may be waited for, true and false."""
        counted = [e for e in self.scene.events if e.kind not in ("digit", "slide")]
        firsts = {clause(self.scene, e): e for e in reversed(counted)}
        for text, e in firsts.items():
            if e.start > self.t0:
                yield text, e if e.end - 0.3 < self.t1 or (e.end - e.start > 1 and e.start < self.t1) else None, e
        for x in self.seen:
            wrong = [c for c in COLORS if c not in [h[1] for h in x.hues]]
            yield f"the {x.name(self.t0)} turned {wrong[(x.number + len(self.scene.events)) % len(wrong)]}", None, None
            for kind in REPEATED:
                text = f"the {x.name(self.t1)} {ACTIONS[kind][1]}"
                if text not in firsts and len(x.hues) == 1:
                    yield text, None, None

    def _happened(self, task="happened"):
        for text, come, ever in self._awaited():
            evidence = [(ever.start, max(ever.end, ever.start + HOLD))] if ever else ()
            since = come.start if come else self.t0
            if task == "tell":
                answer = text[0].upper() + text[1:] + "." if come else NOT_YET
                yield self._make("tell", "AM", answer, (), since, evidence, present=in_present(text))
            else:
                yield self._make("happened", "AM", "yes" if come else "no", YES_NO, since, evidence, clause=text)

    def _tell(self):
        yield from self._happened("tell")

    def _acts(self, thing):
        return [e for e in self.scene.events if e.who == thing.number and e.kind in ACTIONS]


TASKS = (
    "sign",
    "color",
    "shape",
    "where",
    "action",
    "present",
    "left",
    "top",
    "things",
    "count",
    "kinds",
    "steps",
    "first",
    "last",
    "gone",
    "did",
    "old_sign",
    "old_color",
    "absent",
    "order",
    "after",
    "step",
    "is_step",
    "next_step",
    "step_after",
    "next_sign",
    "happened",
    "tell",
)
