"""Everything a run of self-evolution can be told, in one place; written to `run.json` and compared when a run goes on."""

from dataclasses import dataclass, field

from ..engine.errors import ArgumentError
from .tune import Tuning


@dataclass(frozen=True)
class Settings:
    """samples: trajectories a round. mix: share of videos whose category is drawn, not chosen by the model. questions: asked of each
    video. segment_s: seconds of a segment of stage 3. window: silent turns kept before each reply and after the last (stage 4's
    pruning); 0 keeps all. most_answers: largest share of turns with a reply in a trajectory. quiet_share: share of trajectories whose
    event never comes. offline_share: share of trajectories that are plain questions after the video, answered as the model itself does.
    consistency: whether a reply must agree with the answer from all of the evidence. relevance: share of its
    question's surest segment from which a segment is relevant. batch: videos worked on together. history: what a silent turn leaves in
    the context of the tuned model, as in streaming.json."""

    samples: int = 1000
    rounds: int = 1
    seed: int = 0
    fps: float = 0.5
    tokens_per_frame: int = 128
    mix: float = 0.0
    questions: int = 4
    choices: float = 0.5
    temperature: float = 0.8
    segment_s: float = 4.0
    relevance: float = 0.5
    window: int = 8
    most_answers: float = 0.4
    quiet_share: float = 0.1
    offline_share: float = 0.1
    consistency: bool = True
    batch: int = 8
    max_answer: int = 48
    history: str = "full"
    prompts: str = "v1"
    tuning: Tuning = field(default_factory=Tuning)

    def __post_init__(self):
        for name in ("samples", "rounds", "questions", "batch", "max_answer", "tokens_per_frame"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}; at least 1 is accepted")
        for name in ("mix", "choices", "relevance", "most_answers", "quiet_share", "offline_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ArgumentError(f"{name} is {getattr(self, name)}; a share between 0 and 1 is accepted")
        if self.fps <= 0 or self.segment_s < 1 / self.fps:
            raise ArgumentError(f"a segment of {self.segment_s} s holds no frame at {self.fps} frames a second")
