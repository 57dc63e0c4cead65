"""Memory as the place of records: bounded, the least recently used go first."""

import asyncio
from pathlib import Path

import pytest

from inference_store.backends import CannotRecord, Memory
from tests.inference_store import processes
from tests.inference_store.made_record import record
from tests.inference_store.played_target import played
from tests.inference_store.test_modes import infer, request


def test_the_least_recently_used_goes_first() -> None:
    made = [record(float(value)) for value in range(4)]
    memory = Memory(3 * made[0].size)
    for each in made[:3]:
        assert memory.keep(each)
    assert memory.find(made[0].key) is made[0]
    memory.keep(made[3])
    assert [memory.find(each.key) is not None for each in made] == [True, False, True, True]
    # Keeping one again takes no room twice.
    memory.keep(made[3])
    assert len(memory) == 3


def test_what_is_larger_than_all_is_not_kept() -> None:
    memory = Memory(100)
    with pytest.raises(CannotRecord, match="larger than the memory backend's limit"):
        asyncio.run(memory.put(record()))
    assert len(memory) == 0


def test_a_cache_for_a_server(log: Path) -> None:
    """Shapes of equal bytes are told apart, which Triton's own cache does not."""
    options = ("--backend", "memory", "--backend-bytes", "20000")
    with played() as target, processes.store(log, "--target", target.url, *options) as store:
        flat, square = request(1, 2, 3, 4), request(1, 2, 3, 4)
        square.inputs[0].shape[:] = [2, 2]
        for _ in range(2):
            infer(store.url, flat)
            infer(store.url, square)
        assert target.asked["ModelInfer"] == 2
        for value in range(20):
            infer(store.url, request(value))
        infer(store.url, flat)
        assert target.asked["ModelInfer"] == 23
