"""Events as sentences."""

from .lexicon import ACTIONS


def clause(scene, event) -> str:
    """An event as a sentence without capital or stop: "the red star jumped"."""
    if event.kind == "digit":
        return f"the sign turned to {event.value}"
    if event.kind == "step":
        return f"the cook did {event.value}"
    thing = scene.things[event.who]
    name = thing.name(event.start)
    if event.kind == "recolor":
        return f"the {name} turned {event.value}"
    if event.kind == "stack":
        return f"the {name} moved onto the {scene.things[int(event.value)].name(event.start)}"
    return f"the {name} " + ({k: v[1] for k, v in ACTIONS.items()} | {"appear": "appeared", "leave": "left"})[event.kind]


def in_present(past: str) -> str:
    """The same clause as something to wait for: "the red star jumps"."""
    for was, now in (
        ("appeared", "appears"),
        ("jumped", "jumps"),
        ("grew", "grows"),
        ("flashed", "flashes"),
        ("moved onto", "moves onto"),
        ("turned", "turns"),
        ("cook did", "cook does"),
        ("slid", "slides"),
    ):
        if was in past:
            return past.replace(was, now)
    return past.removesuffix("left") + "leaves"
