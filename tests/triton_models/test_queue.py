"""Triton's queue: bounded, and what has waited too long is dropped without being computed."""

import asyncio
from typing import Any

import numpy as np
import pytest

from tests.triton_models.helpers import LOAD_SECONDS, RunningTriton, install, statistics
from tests.triton_models.tiny_onnx import expected
from triton_models.calls import Queueing
from triton_models.client import TritonClient
from triton_models.config import MAX_QUEUE_SIZE, Tuning, from_text, to_text
from triton_models.errors import TritonError, TritonOverloaded, TritonTimeout
from triton_models.manifest import Manifest
from triton_models.repository import CONFIG

HELD_MICROSECONDS = 1_000_000
"""So long Triton holds a request back in the hope of more: that is how the queue is filled here."""


def held(triton: RunningTriton, name: str, **policy: int) -> Manifest:
    """A model whose requests stay in the queue for a while."""
    recorded = install(triton.repository, name, seed=1)
    path = triton.repository.version_dir(name).parent / CONFIG
    config = from_text(path.read_text())
    config.dynamic_batching.max_queue_delay_microseconds = HELD_MICROSECONDS
    for field, value in policy.items():
        setattr(config.dynamic_batching.default_queue_policy, field, value)
    path.write_text(to_text(config))
    return recorded


def on(triton: RunningTriton, name: str, work: Any) -> Any:  # noqa: ANN401 - any coroutine function
    async def run() -> Any:  # noqa: ANN401
        async with TritonClient(triton.url) as client:
            await client.load(name, LOAD_SECONDS)
            return await work(client)

    return asyncio.run(run())


def row(number: int) -> Any:  # noqa: ANN401 - an array
    return np.array([[2, 3, number]], np.int64)


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


def test_the_bound_that_a_conversion_writes(triton: RunningTriton) -> None:
    """Nothing is set here but what holds requests back: so many rows to a batch that they never come."""
    recorded = install(triton.repository, "bounded", seed=1)
    tuning = Tuning(max_batch_size=10 * MAX_QUEUE_SIZE, max_queue_delay_microseconds=8_000_000)
    triton.repository.set_config("bounded", tuning.apply(triton.repository.config("bounded")))

    async def work(client: TritonClient) -> None:
        more = 300
        calls = [
            client.infer("bounded", recorded.version, np.array([divmod(number, 100)]), timeout=60)
            for number in range(MAX_QUEUE_SIZE + more)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, BaseException)]
        assert len(refused) == more
        assert all(isinstance(answer, TritonOverloaded) for answer in refused)

    on(triton, "bounded", work)


def test_what_expires_in_the_queue_is_not_computed(triton: RunningTriton) -> None:
    recorded = held(triton, "late")

    async def work(client: TritonClient) -> None:
        for rows, expires in ((row(4), True), (row(5), False)):
            with pytest.raises(TritonTimeout):
                await client.infer(
                    "late", recorded.version, rows, timeout=0.1, queueing=Queueing(expires=expires)
                )
        # The one that does not expire is computed although nobody waits for it.
        assert (await statistics(client, "late", inferences=1))["inference_count"] == 1
        await asyncio.sleep(HELD_MICROSECONDS / 1e6)
        assert (await statistics(client, "late", inferences=1))["inference_count"] == 1
        got = await client.infer("late", recorded.version, row(4), timeout=20)
        np.testing.assert_allclose(got, expected(1, row(4)), atol=1e-6)

    on(triton, "late", work)


def test_how_long_it_may_wait_splits_no_batch_and_is_not_in_the_cache_key(triton: RunningTriton) -> None:
    recorded = held(triton, "merged_limits")

    async def work(client: TritonClient) -> None:
        async def ask(number: int, seconds: float) -> Any:  # noqa: ANN401
            queueing = Queueing(expires=number % 2 == 0, bulk=number % 3 == 0)
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
