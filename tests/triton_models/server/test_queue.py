"""Triton's own queue: nothing waits in it without need; bounded where an operator wants that."""

import asyncio
from typing import Any

import numpy as np
import pytest

from tests.support.tiny_onnx import expected
from tests.support.tiny_repository import LOAD_SECONDS, RunningTriton, install, statistics
from triton_models.client.client import TritonClient
from triton_models.client.errors import TritonError, TritonOverloaded, TritonTimeout
from triton_models.client.requests import QueueOptions
from triton_models.contract.config import Tuning
from triton_models.contract.manifest import Manifest

HELD_MICROSECONDS = 1_000_000
"""So long Triton holds a request back in the hope of more: that is how the queue is filled here."""

WORK = 1500
"""Some tens of milliseconds of computation."""

PAIRS = 20


def held(triton: RunningTriton, name: str, max_queue_size: int) -> Manifest:
    """A model whose requests stay in the queue for a while."""
    recorded = install(triton.repository, name, seed=1)
    tuning = Tuning(max_queue_delay_microseconds=HELD_MICROSECONDS, max_queue_size=max_queue_size)
    triton.repository.set_config(name, tuning.apply(triton.repository.config(name)))
    return recorded


def on(triton: RunningTriton, name: str, work: Any) -> Any:  # noqa: ANN401 - any coroutine function
    async def run() -> Any:  # noqa: ANN401
        async with TritonClient(triton.url) as client:
            await client.load(name, LOAD_SECONDS)
            return await work(client)

    return asyncio.run(run())


def row(number: int) -> Any:  # noqa: ANN401 - an array
    return np.array([[2, 3, number]], np.int64)


def test_what_comes_while_another_is_computed_waits_for_that_alone(triton: RunningTriton) -> None:
    """With a policy for its queue, Triton lets it wait until a third comes, or for half a second."""
    recorded = install(triton.repository, "alone", seed=1, work=WORK)

    async def work(client: TritonClient) -> None:
        async def ask(number: int, after: float) -> None:
            await asyncio.sleep(after)
            await client.infer("alone", recorded.version, row(number), timeout=20)

        await ask(4, 0.0)
        before = await statistics(client, "alone", inferences=1)
        # Random moments: some of the second ones come in the middle of the first's computation.
        for pair in range(PAIRS):
            await asyncio.gather(ask(10 + 2 * pair, 0.0), ask(11 + 2 * pair, 0.003 * pair))
        after = await statistics(client, "alone", inferences=1 + 2 * PAIRS)

        def spent(what: str) -> int:
            found = [one["inference_stats"][what]["ns"] for one in (before, after)]
            return int(found[1]) - int(found[0])

        assert spent("queue") < spent("compute_infer")

    on(triton, "alone", work)


def test_a_full_queue_refuses_and_remembers_no_refusal(triton: RunningTriton) -> None:
    recorded = held(triton, "full", max_queue_size=2)

    async def work(client: TritonClient) -> None:
        calls = [client.infer("full", recorded.version, row(number), timeout=20) for number in range(4, 14)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = [number for number, answer in enumerate(answers, 4) if isinstance(answer, TritonError)]
        assert 0 < len(refused) < len(answers)
        for number, answer in enumerate(answers, 4):
            if number in refused:
                assert isinstance(answer, TritonOverloaded)
            # Triton caches failures; not this one.
            got = await client.infer("full", recorded.version, row(number), timeout=20)
            np.testing.assert_allclose(got, expected(1, row(number)), atol=1e-6)

    on(triton, "full", work)


def test_what_expires_in_the_queue_is_not_computed(triton: RunningTriton) -> None:
    recorded = held(triton, "late", max_queue_size=100)

    async def work(client: TritonClient) -> None:
        for rows, expires in ((row(4), True), (row(5), False)):
            with pytest.raises(TritonTimeout):
                await client.infer(
                    "late", recorded.version, rows, timeout=0.1, queueing=QueueOptions(expires=expires)
                )
        # The one that does not expire is computed although nobody waits for it.
        assert (await statistics(client, "late", inferences=1))["inference_count"] == 1
        await asyncio.sleep(HELD_MICROSECONDS / 1e6)
        assert (await statistics(client, "late", inferences=1))["inference_count"] == 1
        got = await client.infer("late", recorded.version, row(4), timeout=20)
        np.testing.assert_allclose(got, expected(1, row(4)), atol=1e-6)

    on(triton, "late", work)


def test_how_long_it_may_wait_splits_no_batch_and_is_not_in_the_cache_key(triton: RunningTriton) -> None:
    recorded = held(triton, "merged_limits", max_queue_size=100)

    async def work(client: TritonClient) -> None:
        async def ask(number: int, seconds: float) -> Any:  # noqa: ANN401
            queueing = QueueOptions(expires=number % 2 == 0)
            return await client.infer(
                "merged_limits", recorded.version, row(number), timeout=seconds, queueing=queueing
            )

        answers = await asyncio.gather(*(ask(number, 10 + number) for number in range(4, 20)))
        for number, answer in enumerate(answers, 4):
            np.testing.assert_allclose(answer, expected(1, row(number)), atol=1e-6)
        before = await statistics(client, "merged_limits", inferences=16)
        assert before["execution_count"] <= 2
        await asyncio.gather(*(ask(number, 20 + number) for number in range(4, 20)))
        after = await statistics(client, "merged_limits", inferences=16)
        assert after["inference_count"] == before["inference_count"]
        hits = [found["inference_stats"]["cache_hit"]["count"] for found in (before, after)]
        assert hits[1] - hits[0] == 16

    on(triton, "merged_limits", work)
