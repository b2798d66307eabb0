"""Which benchmarks there are, by name."""

from importlib import import_module
from pathlib import Path

from ...engine.errors import ArgumentError
from ..errors import SchemaError

SUITES = (
    "ovobench", "ovo_timing", "streamingbench", "ovbench", "odvbench", "proactivevideoqa", "omnimmi", "svbench", "estp", "spot",
    "streambench", "vstream_qa", "livesports3k", "infstreams", "world",
)  # fmt: skip
OFFLINE = ("videomme", "mvbench", "mlvu", "mlvu_test", "longvideobench", "egoschema", "lvbench", "livesports3k")


def load_suite(name):
    """The module of a suite: `read(path, fps=...)` gives its episodes, `official(episodes, traces, judge)`, if there, its own score."""
    if name not in SUITES:
        raise ArgumentError(f"no suite is called {name!r}; there are {', '.join(SUITES)}")
    return import_module(f".{name}", __package__)


def read_suite(suite, data, fps=None):
    """The episodes that a module of `load_suite` reads from `data`; without `fps` at the benchmark's own rate."""
    return suite.read(data) if fps is None else suite.read(data, fps=fps)


def load_offline(name):
    """The module of an offline set: `items(path)` gives its questions, `OVERALL` says what its score is a mean over."""
    if name not in OFFLINE:
        raise ArgumentError(f"no offline set is called {name!r}; there are {', '.join(OFFLINE)}")
    return import_module(f".{name}", __package__)


def find_file(path, *names):
    """`path` itself if it is a file, else the first of `names` below it."""
    path = Path(path)
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    wanted = " or ".join(names[:3]) + (" or others of its kind" if len(names) > 3 else "")
    raise SchemaError(path, "", "", f"is neither the annotation file nor a folder with {wanted}")


def find_files(path, *names):
    """`path` itself if it is a file, else all of `names` that are in it, at least one."""
    path = Path(path)
    found = [path] if path.is_file() else [path / name for name in names if (path / name).is_file()]
    return found or [find_file(path, *names)]
