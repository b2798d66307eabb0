"""The turn format that a checkpoint was tuned with: `streaming.json` beside the weights or the adapter."""

from dataclasses import dataclass, fields
from pathlib import Path

from .config import read_json
from .errors import CheckpointError

FILE = "streaming.json"


@dataclass(frozen=True)
class StreamingFormat:
    """One checkpoint's convention for silent and spoken turns.

    silence: the reply of a silent turn; reply_marker: what a spoken reply starts with, or None; history: "full" (silent turns stay in the
    context as turns) or "replies" (a silent turn leaves only its frame); system: the system text, None for the family's own.
    """

    silence: str = "SILENT"
    reply_marker: str | None = None
    history: str = "full"
    system: str | None = None

    def __post_init__(self):
        for name in ("silence", "history"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise CheckpointError(f'{FILE}: "{name}" is {getattr(self, name)!r}, expected a text')
        for name in ("reply_marker", "system"):
            if not isinstance(getattr(self, name), str | None) or getattr(self, name) == "":
                raise CheckpointError(f'{FILE}: "{name}" is {getattr(self, name)!r}, expected a text or null')
        if self.history not in ("full", "replies"):
            raise CheckpointError(f'{FILE}: "history" is {self.history!r}, accepted are "full" and "replies"')

    @classmethod
    def from_directories(cls, *directories):
        """The file of the last directory that has one (the adapter's wins over the checkpoint's); defaults if none has.

        Raises CheckpointError on malformed JSON, unknown keys and values of the wrong type.
        """
        for directory in reversed([Path(item) for item in directories if item is not None]):
            if (directory / FILE).is_file():
                values = read_json(directory, FILE, "the turn format")
                accepted = [field.name for field in fields(cls)]
                unknown = [key for key in values if key not in accepted]
                if unknown:
                    raise CheckpointError(f"{directory / FILE} has unknown keys {', '.join(unknown)}; accepted are {', '.join(accepted)}")
                return cls(**values)
        return cls()
