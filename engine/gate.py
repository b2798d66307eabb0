"""How the engine decides between speaking and silence."""

from dataclasses import dataclass

from ..kernels.gate import MODES
from .errors import ArgumentError


@dataclass(frozen=True)
class Gate:
    """mode "greedy": silent iff the most likely next token is the first token of the silence word. "softmax": speak iff 1 - P(silence) >=
    threshold over the whole vocabulary. "pair": the same over the silence and the reply marker alone. refractory: turns of enforced
    silence after a reply."""

    mode: str = "softmax"
    threshold: float = 0.5
    refractory: int = 0

    def __post_init__(self):
        if self.mode not in MODES:
            raise ArgumentError(f"gate mode {self.mode!r} is not one of {', '.join(MODES)}")
        if not 0 <= self.threshold <= 1:
            raise ArgumentError(f"gate threshold {self.threshold} is not a probability between 0 and 1")
        if self.refractory < 0 or int(self.refractory) != self.refractory:
            raise ArgumentError(f"gate refractory {self.refractory} is not a number of turns (0, 1, 2, ...)")
