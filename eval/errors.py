"""Errors of the evaluation room."""

from ..engine.errors import EvoStreamingError


class SchemaError(EvoStreamingError):
    """A file does not hold what its format demands. `path`, `place` ("line 3", "record 7") and `field` say where."""

    exit_code = 3

    def __init__(self, path, place, field, problem):
        self.path, self.place, self.field = str(path), place, field
        super().__init__(", ".join(p for p in (str(path), place, f"field {field}" if field else None) if p) + f": {problem}")


class JudgeError(EvoStreamingError):
    """The judge was set up wrongly, or its verdicts cannot be stored."""


class RunError(EvoStreamingError):
    """A run directory belongs to another run, is in use, or cannot be written."""


class MissingVideos(EvoStreamingError):
    """Videos of the episodes are not there. `missing` are their names."""

    exit_code = 3

    def __init__(self, missing, looked_in):
        self.missing = missing
        places = ", ".join(map(str, looked_in))
        super().__init__("\n  ".join([f"{len(missing)} videos are missing; looked in {places} for", *missing]))
