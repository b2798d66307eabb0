"""A cache that does not fit is refused with the numbers, before the system has to."""

from pathlib import Path

import pytest
import torch

from evostreaming.engine.cache import free_bytes
from evostreaming.engine.errors import CapacityError


@pytest.fixture
def data(golden):
    return golden("qwen2_5_vl")


def test_a_cache_that_the_system_does_not_give_is_a_capacity_error_on_a_cpu(make_engine, data, monkeypatch):
    def refuse(*shape, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("evostreaming.engine.cache.torch.zeros", refuse)
    with pytest.raises(CapacityError, match="more than there is"):
        make_engine(data)


def test_a_cache_beyond_the_free_memory_is_refused_with_the_numbers_before_it_is_touched(make_engine, data, monkeypatch):
    monkeypatch.setattr("evostreaming.engine.cache.free_bytes", lambda device: 1 << 20)
    monkeypatch.setattr("evostreaming.engine.cache.torch.zeros", lambda *shape, **options: pytest.fail("Linux would end the process"))
    with pytest.raises(CapacityError, match="0.00 GiB are free") as caught:
        make_engine(data)
    assert caught.value.free == 1 << 20 < caught.value.needed


def test_the_free_memory_of_a_cpu_is_known_on_linux():
    free = free_bytes(torch.device("cpu"))
    assert free is None if not Path("/proc/meminfo").exists() else 1 << 20 < free < 1 << 50
