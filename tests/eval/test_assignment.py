"""The assignment is exact: compared with every possible matching."""

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from evostreaming.eval.assignment import assign

TABLES = st.integers(1, 4).flatmap(
    lambda m: st.lists(st.lists(st.sampled_from([0, 0.25, 0.5, 1]), min_size=m, max_size=m), min_size=1, max_size=5)
)


@settings(max_examples=150, deadline=None)
@given(TABLES)
def test_heaviest_matching_then_earliest_rows(weights):
    n, m = len(weights), len(weights[0])
    best = max(
        (sum(weights[i][j] for i, j in pairs), sum(n - i for i, _ in pairs))
        for columns in permutations([*range(m), *[None] * n], n)
        for pairs in [[(i, j) for i, j in enumerate(columns) if j is not None and weights[i][j] > 0]]
    )
    found = assign(weights)
    assert len(set(found.values())) == len(found)
    assert (sum(weights[i][j] for i, j in found.items()), sum(n - i for i in found)) == best


def test_preference_breaks_what_ties_remain():
    weights = [[1, 1], [1, 1]]
    assert assign(weights, [[0, 9], [9, 0]]) == {0: 0, 1: 1}
    assert assign(weights, [[9, 0], [0, 9]]) == {0: 1, 1: 0}


def test_nothing_is_matched_for_nothing():
    assert assign([]) == {} and assign([[0, 0]]) == {} and assign([[], []]) == {}
