"""The five kinds of scene, one for each kind of question a live assistant gets."""

from .lexicon import CORNERS, RECIPES, REPEATED
from .stage import HOLD, RADIUS, Stage, Track


def sign(stage: Stage):
    """A sign counts up or down or jumps about while one or two things act."""
    rng = stage.rng
    _counting_sign(stage, rng.randint(4, 9))
    end = stage.digits[-1][0] + rng.uniform(3, 5)
    for one in [stage.thing() for _ in range(rng.randint(1, 2))]:
        _act_about(stage, one, rng.uniform(1, 6), end - 3.5)
    return end


def parade(stage: Stage):
    """Things come one after another, stay a while and go."""
    rng = stage.rng
    t, last = rng.uniform(1, 4), 0.0
    if rng.random() < 0.4:
        stage.thing()
    for _ in range(rng.randint(3, 5)):
        one = stage.thing(start=t)
        gone = t + rng.uniform(HOLD + 2, 18)
        stage.leave(one, gone)
        last = max(last, gone)
        t += rng.uniform(2.6, 7)
    return min(last, t + 6) + rng.uniform(2, 4)


def repeat(stage: Stage):
    """One thing does the same again and again; others distract."""
    rng = stage.rng
    actor, action = stage.thing(), rng.choice(REPEATED)
    t = rng.uniform(1, 5)
    for _ in range(rng.randint(2, 8)):
        end = t + rng.uniform(HOLD, 3.2)
        stage.act(actor, action, t, end)
        t = end + rng.uniform(HOLD, 4.5)
    for _ in range(rng.randint(0, 2)):
        _act_about(stage, stage.thing(), rng.uniform(2, 9), t - 5, most=3)
    return t


def wait(stage: Stage):
    """Little happens for long; then the one thing worth telling, and at times another."""
    rng = stage.rng
    things = [stage.thing() for _ in range(rng.randint(2, 3))]
    t = rng.uniform(5, 20)
    if rng.random() < 0.35:
        _act_about(stage, things[-1], 1.0, t, most=1)
        things = things[:-1]
    kinds = rng.sample(["recolor", "stack", "arrive", "depart"], rng.randint(1, 3))
    for kind in kinds:
        if kind == "recolor":
            stage.recolor(rng.choice(things), t)
        elif kind == "arrive":
            stage.thing(start=t)
        elif kind == "depart" and len(things) > 1 and not any(x.on for x in things):
            stage.leave(things.pop(), t)
        elif kind == "stack" and len(things) > 1:
            above, below = rng.sample(things, 2)
            if stage.room_above(below) and above.stays[-1][1]:
                stage.stack(above, below, t, t + 2.5)
                t += 2.5
        t += rng.uniform(4, 9)
    return t


def recipe(stage: Stage):
    """A cook follows one of the recipes over a bowl."""
    rng = stage.rng
    stage.take_place("center")
    for near in ("top", "bottom"):
        stage.take_place(near)
    stage.recipe = rng.choice(list(RECIPES))
    stage.above.append(Track("bowl", 0.5, 0.58, 0.17, 0.15, (0.82, 0.8, 0.75), 1.0))
    t = rng.uniform(1, 4)
    for name in RECIPES[stage.recipe]:
        end = t + rng.uniform(4, 7.5)
        stage.step(name, t, end)
        t = end + rng.uniform(1.2, 3)
    for _ in range(rng.randint(0, 2)):
        place = rng.choice([c for c in CORNERS if c in stage.places])
        one = stage.thing(place=place)
        if rng.random() < 0.5:
            _act_about(stage, one, rng.uniform(2, 12), t - 4, most=2, kinds=REPEATED)
    return t


def idle_sign(stage: Stage):
    """A sign that never changes, off the middle column so that a cook has room."""
    rng = stage.rng
    if rng.random() < 0.35:
        stage.sign([rng.randint(0, 9)], [0.0], "fixed", place=rng.choice((*CORNERS, "left", "right")))


def bouncing_ball(stage: Stage, duration: float):
    """A small gray ball that bounces from wall to wall and means nothing."""
    rng = stage.rng
    if rng.random() < 0.3:
        ball = Track("circle", rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), 0.028, 0.028, (0.45, 0.45, 0.45), 1.0)
        for axis in "xy":
            t, goal, speed = 0.0, rng.choice((0.03, 0.97)), rng.uniform(0.08, 0.25)
            while t < duration:
                end = t + max(abs(goal - ball.now(axis)) / speed, 0.1)
                ball.move(t, end, **{axis: goal})
                t, goal = end, 1.0 - goal
        stage.below.insert(0, ball)


def _counting_sign(stage, count):
    rng = stage.rng
    mode = rng.choice(["up", "down", "random"])
    lowest, highest = {"up": (0, 10 - count), "down": (count - 1, 9)}.get(mode, (0, 9))
    first = rng.randint(lowest, highest)
    digits, times = [first], [0.0]
    for _ in range(count - 1):
        step = {"up": 1, "down": -1}.get(mode) or rng.choice([d for d in range(-9, 10) if d and 0 <= digits[-1] + d <= 9])
        digits.append(digits[-1] + step)
        times.append((times[-1] or rng.uniform(0, 2)) + rng.uniform(4, 7))
    stage.sign(digits, times, mode)


def _act_about(stage, one, start, until, most=6, kinds=(*REPEATED, "slide")):
    rng = stage.rng
    t = start
    for _ in range(most):
        kind = rng.choice(kinds)
        end = t + (rng.uniform(3, 4) if kind == "slide" else rng.uniform(HOLD, 3.6))
        if end > until:
            return
        if kind == "jump" and one.track.now("y") - RADIUS * 1.9 < 0:
            kind = "grow"
        stage.act(one, kind, t, end)
        t = end + rng.uniform(HOLD, 6)


GENRES = {"sign": sign, "parade": parade, "repeat": repeat, "wait": wait, "recipe": recipe}
