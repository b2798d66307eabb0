"""JSON objects that know where they came from, so that every complaint names the file, the line and the field."""

import json
import math
from pathlib import Path

from .errors import SchemaError

REQUIRED = object()
LIMIT = 10**18


class Record:
    """One JSON object of a file. The readers below return the field or raise `SchemaError`; `default` makes it optional."""

    __slots__ = ("data", "path", "place", "prefix")

    def __init__(self, data, path, place, prefix=""):
        self.data, self.path, self.place, self.prefix = data, path, place, prefix
        if not isinstance(data, dict):
            raise SchemaError(path, place, prefix.rstrip("."), f"expected a JSON object, got {kind(data)}")

    def fail(self, name, problem):
        raise SchemaError(self.path, self.place, self.prefix + name if name else self.prefix.rstrip("."), problem)

    def __contains__(self, name):
        return self.data.get(name) is not None

    def _get(self, name, default):
        value = self.data.get(name)
        if value is not None:
            return value
        if default is not REQUIRED:
            return None
        self.fail(name, "is null, but a value is needed" if name in self.data else "is missing")

    def text(self, name, default=REQUIRED):
        value = self._get(name, default)
        if value is None:
            return default
        if not isinstance(value, str):
            self.fail(name, f"expected a string, got {kind(value)}")
        return value

    def number(self, name, default=REQUIRED):
        """A finite float; NaN and Infinity never get past the parser."""
        value = self._get(name, default)
        return default if value is None else self._float(name, value)

    def integer(self, name, default=REQUIRED):
        value = self._get(name, default)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            self.fail(name, f"expected an integer, got {kind(value)}")
        return self._bounded(name, value)

    def flag(self, name, default=REQUIRED):
        value = self._get(name, default)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fail(name, f"expected true or false, got {kind(value)}")
        return value

    def choice(self, name, accepted):
        value = self.text(name)
        if value not in accepted:
            self.fail(name, f"{value!r} is not one of {', '.join(accepted)}")
        return value

    def items(self, name, default=REQUIRED):
        value = self._get(name, default)
        if value is None:
            return default
        if not isinstance(value, list):
            self.fail(name, f"expected a list, got {kind(value)}")
        return value

    def strings(self, name, default=REQUIRED):
        value = self.items(name, default)
        if value is default:
            return default
        for i, item in enumerate(value):
            if not isinstance(item, str):
                self.fail(f"{name}[{i}]", f"expected a string, got {kind(item)}")
        return tuple(value)

    def numbers(self, name, length=None):
        value = self.items(name)
        if length is not None and len(value) != length:
            self.fail(name, f"expected {length} numbers, got {len(value)}")
        return tuple(self._float(f"{name}[{i}]", item) for i, item in enumerate(value))

    def _float(self, name, value):
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fail(name, f"expected a number, got {kind(value)}")
        return float(self._bounded(name, value))

    def _bounded(self, name, value):
        # JSON's integers have as many digits as one likes: sums and means of them would overflow far from here.
        if abs(value) >= LIMIT:
            self.fail(name, "is out of range; give one below 10^18")
        return value

    def record(self, name, default=REQUIRED):
        value = self._get(name, default)
        return default if value is None else Record(value, self.path, self.place, f"{self.prefix}{name}.")

    def records(self, name, default=REQUIRED):
        value = self.items(name, default)
        if value is default:
            return default
        return [Record(item, self.path, self.place, f"{self.prefix}{name}[{i}].") for i, item in enumerate(value)]


def kind(value):
    """The JSON name of a value's type."""
    if isinstance(value, bool):
        return "a boolean"
    names = ((str, "a string"), (int, "an integer"), (float, "a number"), (list, "a list"), (dict, "an object"))
    return next((name for types, name in names if isinstance(value, types)), "null")


def _finite(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is out of range")
    return value


def _no_constant(text):
    raise ValueError(f"{text} is not JSON")


def parse(text, path, place):
    """JSON text to Python values, with numbers that are finite."""
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise SchemaError(path, place, "", f"not valid JSON: {error}") from None


def read_jsonl(path):
    """Yield one `Record` for every line that is not blank."""
    number = 0
    try:
        with open(path, encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    place = f"line {number}"
                    yield Record(parse(line, path, place), path, place)
    except UnicodeDecodeError as error:
        raise SchemaError(path, f"line {number + 1}", "", f"not UTF-8: {error.reason}") from None
    except OSError as error:
        raise SchemaError(path, "", "", f"cannot be read: {error.strerror}") from None


def read_json(path):
    """The value of a whole JSON file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SchemaError(path, "", "", f"not UTF-8: {error.reason}") from None
    except OSError as error:
        raise SchemaError(path, "", "", f"cannot be read: {error.strerror}") from None
    return parse(text, path, "")


def read_records(path):
    """The `Record`s of a JSON file whose top level is a list of objects."""
    value = read_json(path)
    if not isinstance(value, list):
        raise SchemaError(path, "", "", f"expected a list of records at the top level, got {kind(value)}")
    return [Record(item, path, f"record {i}") for i, item in enumerate(value)]


def write_jsonl(path, rows):
    """One object a line, UTF-8."""
    with open(path, "w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
