"""The named parameters of RSE-1.0; every one stands in the header of a report."""

from dataclasses import dataclass

SPEC = "RSE-1.0"
PROFILES = ("paper", "event", "figure")
MATCHINGS = ("max", "one2one")
CLOCKS = ("video", "wall")


@dataclass(frozen=True, slots=True)
class Settings:
    """Times in seconds. `theta` is the verdict from which a response counts as right."""

    delta_s: float = 2.0  # how far from its turn a forward target may still be answered, for S
    epsilon: float = 0.0  # how early a response may come, for E
    lam: float = 5.0  # how long after its window a target fades to nothing, for E
    theta: float = 0.5
    matching: str = "max"  # "one2one": in S, too, a response serves one target only
    clock: str = "video"  # "wall": a response counts when its first token is available
    placeholder_is_silence: bool = False
    figure_lambda: float = 0.05  # what one response costs in profile `figure`
    max_error_share: float = 0.01  # more turns with an error than this make a run invalid


DEFAULT = Settings()
