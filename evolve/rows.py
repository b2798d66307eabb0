"""Files of a run: one JSON object a line, on the disk before the next is worked on, and whole lines only when read again."""

import json
from pathlib import Path

from ..eval.errors import RunError
from ..eval.journal import Journal, whole_lines

__all__ = ["Journal", "read_rows", "unfinished"]


def read_rows(path):
    """The rows of a file, [] if there is none; half a last line, left by a killed process, is no row. Raises RunError."""
    if not Path(path).exists():
        return []
    rows = []
    for number, line in enumerate(whole_lines(path), 1):
        try:
            rows.append(json.loads(line))
        except ValueError:
            raise RunError(f"{path}, line {number}: not a JSON object; delete the line and run the stage again") from None
    return rows


def unfinished(items, rows, key, group):
    """`items` in groups of `group`, without the groups whose every item has a row already: [(group, ids that have one)].

    Groups begin at the same places however often a run was killed, so batches, and with them the results, are the same.
    """
    done = {row[key] for row in rows}
    groups = [items[i : i + group] for i in range(0, len(items), group)]
    return [(part, {item[key] for item in part} & done) for part in groups if not all(item[key] in done for item in part)]
