"""Errors of the evaluation room."""

from ..engine.errors import EvoStreamingError


class SchemaError(EvoStreamingError):
    """A file does not hold what its format demands. `path`, `place` ("line 3", "record 7") and `field` say where."""

    def __init__(self, path, place, field, problem):
        self.path, self.place, self.field = str(path), place, field
        super().__init__(", ".join(p for p in (str(path), place, f"field {field}" if field else None) if p) + f": {problem}")


class JudgeError(EvoStreamingError):
    """The judge was set up wrongly, or its verdicts cannot be stored."""
