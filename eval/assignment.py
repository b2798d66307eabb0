"""Maximum-weight one-to-one assignment, exact."""

# Weights are compared as integers of this resolution: sums of floats would make ties depend on the order of addition.
RESOLUTION = 10**9


def assign(weights, preference=None):
    """Match rows to columns so that the sum of `weights[row][column]` is largest; pairs without positive weight are never matched.

    Ties go to the earlier rows, then to the smaller sum of `preference[row][column]` (non-negative integers). Returns `{row: column}`.
    """
    rows = [i for i, row in enumerate(weights) if any(w > 0 for w in row)]
    columns = sorted({j for i in rows for j, w in enumerate(weights[i]) if w > 0})
    if not rows:
        return {}
    # One integer a pair, most significant part first: weight, then earliness of the row, then preference.
    worst = 1 + len(columns) * max((preference[i][j] for i in rows for j in columns), default=0) if preference else 1
    scale = worst * (len(rows) * len(rows) + 1)
    gain = [
        [
            round(weights[i][j] * RESOLUTION) * scale + (len(rows) - at) * worst - (preference[i][j] if preference else 0)
            if weights[i][j] > 0 else 0
            for at, i in enumerate(rows)
        ]
        for j in columns
    ]  # fmt: skip
    matched = _hungarian(gain, len(rows))
    return {rows[r]: columns[c] for c, r in sorted(matched.items(), key=lambda pair: pair[1]) if gain[c][r] > 0}


def _hungarian(gain, width):
    """Rows of `gain` to its columns by shortest augmenting paths; each row has a spare column of gain 0, so it may stay unmatched."""
    height, infinity = len(gain), float("inf")
    total = width + height
    row_price, column_price, owner = [0] * (height + 1), [0] * (total + 1), [0] * (total + 1)
    for start in range(1, height + 1):
        owner[0], here = start, 0
        slack, back, used = [infinity] * (total + 1), [0] * (total + 1), [False] * (total + 1)
        while owner[here]:
            used[here] = True
            row, best, there = owner[here], infinity, 0
            for column in range(1, total + 1):
                if used[column]:
                    continue
                cost = -gain[row - 1][column - 1] if column <= width else 0
                reduced = cost - row_price[row] - column_price[column]
                if reduced < slack[column]:
                    slack[column], back[column] = reduced, here
                if slack[column] < best:
                    best, there = slack[column], column
            for column in range(total + 1):
                if used[column]:
                    row_price[owner[column]] += best
                    column_price[column] -= best
                else:
                    slack[column] -= best
            here = there
        while here:
            owner[here], here = owner[back[here]], back[here]
    return {owner[column] - 1: column - 1 for column in range(1, width + 1) if owner[column]}
