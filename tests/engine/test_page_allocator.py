"""The C++ page allocator: what a stream holds is never handed out, and what nobody holds is never lost."""

import random
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evostreaming._pages import OutOfPagesError, PageAllocator

ROOT = Path(__file__).parents[2]


def test_fresh_pool_goes_up_and_the_page_freed_last_goes_out_first():
    pool = PageAllocator(6)
    assert pool.allocate(3) == [0, 1, 2]
    pool.release([0])
    pool.release([2])
    assert pool.allocate(3) == [2, 0, 3]


def test_exhaustion_is_all_or_nothing_and_says_how_many():
    pool = PageAllocator(5)
    pool.allocate(3)
    with pytest.raises(OutOfPagesError, match="3 needed, 2 free") as caught:
        pool.allocate(3)
    assert isinstance(caught.value, RuntimeError)
    assert (caught.value.free, caught.value.needed) == (2, 3)
    assert pool.free == 2
    assert pool.allocate(2) == [3, 4]
    assert pool.allocate(0) == []


def test_double_free_names_the_page_and_changes_nothing():
    pool = PageAllocator(4)
    pool.allocate(3)
    pool.release([1])
    with pytest.raises(ValueError, match="page 1 "):
        pool.release([0, 1, 2])
    assert [pool.refcount(page) for page in range(4)] == [1, 0, 1, 0]
    with pytest.raises(ValueError, match="page 2 "):
        pool.release([0, 2, 2])
    assert [pool.refcount(page) for page in range(4)] == [1, 0, 1, 0]
    pool.check()


def test_a_free_page_cannot_be_shared_and_none_of_the_call_is_kept():
    pool = PageAllocator(4)
    pool.allocate(2)
    with pytest.raises(ValueError, match="page 3 "):
        pool.share([0, 1, 3])
    assert [pool.refcount(page) for page in range(4)] == [1, 1, 0, 0]


@pytest.mark.parametrize("pages", [[0, 4], [0, -1]])
def test_a_page_outside_the_pool_is_refused_before_anything_changes(pages):
    pool = PageAllocator(4)
    pool.allocate(1)
    for call in (pool.share, pool.release):
        with pytest.raises(IndexError, match=f"page {pages[1]} "):
            call(pages)
    assert pool.refcount(0) == 1


@pytest.mark.parametrize("size", [0, -1, 2**31])
def test_a_pool_has_at_least_one_page_and_int32_numbers(size):
    with pytest.raises(ValueError, match=str(size)):
        PageAllocator(size)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_numpy_page_lists_are_taken(dtype):
    pool = PageAllocator(4)
    pages = np.array(pool.allocate(3), dtype=dtype)
    pool.share(pages)
    pool.release(pages[1:])
    assert [pool.refcount(page) for page in pages] == [2, 1, 1]


def test_fork_tree_frees_a_page_when_the_last_leaf_lets_go():
    pool = PageAllocator(32)
    tables = {(): pool.allocate(4)}
    for depth in range(3):  # every stream forks twice and then appends a page of its own
        for name in [name for name in tables if len(name) == depth]:
            for branch in (0, 1):
                pool.share(tables[name])
                tables[(*name, branch)] = tables[name] + pool.allocate(1)
    assert pool.refcount(0) == len(tables) == 15
    assert pool.free == 32 - 4 - 14
    order = list(tables)
    random.Random(0).shuffle(order)
    while order:
        pool.release(tables.pop(order.pop()))
        pool.check()
        expected = Counter(page for table in tables.values() for page in table)
        assert [pool.refcount(page) for page in range(32)] == [expected[page] for page in range(32)]
    assert pool.free == 32


class Model:
    """The same promises in the plainest Python."""

    def __init__(self, n_pages):
        self.stack, self.counts = list(reversed(range(n_pages))), [0] * n_pages

    def allocate(self, n):
        if n > len(self.stack):
            raise OutOfPagesError
        pages = [self.stack.pop() for _ in range(n)]
        for page in pages:
            self.counts[page] = 1
        return pages

    def share(self, pages):
        if any(self.counts[page] == 0 for page in pages):
            raise ValueError
        for page in pages:
            self.counts[page] += 1

    def release(self, pages):
        if any(self.counts[page] < times for page, times in Counter(pages).items()):
            raise ValueError
        for page in pages:
            self.counts[page] -= 1
            if self.counts[page] == 0:
                self.stack.append(page)


def outcome(call, argument):
    try:
        return call(argument)
    except (OutOfPagesError, ValueError) as error:
        return type(error)


def test_hundred_thousand_random_operations_agree_with_the_model():
    draw = random.Random(7)
    pool, model = PageAllocator(48), Model(48)
    refused = Counter()
    for operation in range(100_000):
        name = draw.choice(["allocate", "share", "release", "release"])
        argument = draw.randrange(7) if name == "allocate" else [draw.randrange(48) for _ in range(draw.randrange(4))]
        got, expected = outcome(getattr(pool, name), argument), outcome(getattr(model, name), argument)
        assert got == expected, (operation, name, argument)
        refused[str(got)] += isinstance(got, type)
        if operation % 997 == 0:
            pool.check()
            assert [pool.refcount(page) for page in range(48)] == model.counts
    assert min(refused[str(kind)] for kind in (ValueError, OutOfPagesError)) > 100, "the run never reached the refusals"


operations = st.one_of(
    st.tuples(st.just("allocate"), st.integers(0, 6)),
    st.tuples(st.sampled_from(["share", "release"]), st.lists(st.integers(0, 5), max_size=4)),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(operations, max_size=40))
def test_any_short_history_agrees_with_the_model(history):
    pool, model = PageAllocator(6), Model(6)
    for name, argument in history:
        assert outcome(getattr(pool, name), argument) == outcome(getattr(model, name), argument)
        pool.check()
        assert [pool.refcount(page) for page in range(6)] == model.counts
        assert pool.free == len(model.stack)


def test_allocator_is_clean_under_address_and_undefined_behavior_sanitizers(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ on this machine")
    program = tmp_path / "page_allocator_test"
    source = ROOT / "tests" / "csrc" / "page_allocator_test.cpp"
    flags = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run([compiler, *flags, f"-I{ROOT / 'csrc'}", str(source), "-o", str(program)], capture_output=True, text=True)
    if "cannot find" in built.stderr and "asan" in built.stderr:
        pytest.skip("this g++ has no sanitizer runtime")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([str(program)], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "ok\n"), ran.stderr
