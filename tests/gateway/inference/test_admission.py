"""Who waits, who is refused, and what is given back when somebody goes."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from prometheus_client import REGISTRY

from gateway.errors import DeadlineExceeded, Overloaded
from gateway.inference.admission import AT_ONCE, BURST_ROWS, LEAST_WINDOW, Admission, Lane
from gateway.inference.deadline import Deadline
from gateway.inference.slots import Turn, Visit, in_turns

MANY = 4096


def later(seconds: float = 60) -> Deadline:
    return Deadline(time.monotonic() + seconds)


class Model:
    """What is sent is noted and stays in Triton until it is let go."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self._under_way: list[asyncio.Event] = []

    def call(self, name: str) -> Callable[[int, Turn], Coroutine[None, None, None]]:
        async def one(_: int, turn: Turn) -> None:
            self.sent.append(name)
            event = asyncio.Event()
            self._under_way.append(event)
            turn.began()
            try:
                await event.wait()
            finally:
                turn.ended()

        return one

    async def finish(self, number: int) -> None:
        ended, self._under_way = self._under_way[:number], self._under_way[number:]
        for event in ended:
            event.set()
        for _ in range(5):
            await asyncio.sleep(0)


async def ask(
    lane: Lane, model: Model, name: str, sizes: list[int], deadline: Deadline | None = None
) -> None:
    with Visit(lane, sum(sizes), deadline or later()) as visit:
        await in_turns(visit, dict(enumerate(sizes)), model.call(name))


def lane(inputs: int = 1, most_rows: int = 16384) -> Lane:
    return Admission(most_rows).lane("a-model", inputs, 0)


async def started(*work: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(one) for one in work]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


def test_bulk_requests_take_turns() -> None:
    async def run() -> None:
        bulk, model = lane(MANY), Model()
        tasks = await started(
            ask(bulk, model, "long", [16] * 20), *(ask(bulk, model, f"short{n}", [16] * 2) for n in range(2))
        )
        assert model.sent == ["long"] * (LEAST_WINDOW // 16)
        for _ in range(30):
            await model.finish(1)
        assert model.sent.count("long") == 20
        # Neither waited for the end of the long one, nor for that of the other.
        assert sorted(model.sent[2:8]) == ["long"] * 2 + ["short0"] * 2 + ["short1"] * 2
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_small_requests_do_not_wait_for_bulk() -> None:
    async def run() -> None:
        both, model = Admission(16384), Model()
        bulk, small = both.lane("a-model", MANY, 0), both.lane("a-model", 1, 0)
        tasks = await started(ask(bulk, model, "bulk", [16] * 9), ask(small, model, "single", [1]))
        assert model.sent[-1] == "single"
        for _ in range(5):
            await model.finish(9)
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_one_request_is_always_let_in_and_the_rows_that_wait_are_bounded() -> None:
    async def run() -> None:
        bulk, model = lane(MANY, most_rows=100), Model()
        tasks = await started(ask(bulk, model, "first", [16] * (MANY // 16)))
        with pytest.raises(Overloaded) as raised:
            Visit(bulk, 101, later()).__enter__()
        assert raised.value.retry_after is not None
        assert raised.value.retry_after >= 1
        for _ in range(MANY // 16):
            await model.finish(2)
        await asyncio.gather(*tasks)
        with Visit(bulk, MANY, later()):
            pass

    asyncio.run(run())


def test_hundreds_of_singles_at_once_are_let_in_and_an_overload_keeps_the_queue_short() -> None:
    async def run() -> None:
        small, model = lane(), Model()
        tasks = await started(*(ask(small, model, "burst", [1]) for _ in range(BURST_ROWS)))
        assert small.requests == BURST_ROWS
        refused = await started(ask(small, model, "one too many", [1]))
        with pytest.raises(Overloaded):
            await refused[0]
        while small.requests >= AT_ONCE:
            # Not before the queue is short again is anybody let in.
            with pytest.raises(Overloaded):
                Visit(small, 1, later()).__enter__()
            await model.finish(16)
        tasks += await started(ask(small, model, "after it", [1]))
        while not tasks[-1].done():
            await model.finish(16)
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_what_is_let_in_early_counts_before_it_arrives() -> None:
    """Many requests come in one turn of the loop: each is judged with those before it."""

    async def run() -> None:
        small, model = lane(most_rows=40), Model()
        tasks = await started(
            ask(small, model, "first", [1] * LEAST_WINDOW), ask(small, model, "next", [1] * 30)
        )
        assert small.waiting == 30
        for _ in range(2):
            assert [small.early_refusal(2) is None for _ in range(8)] == [True] * 5 + [False] * 3
            # They did not arrive after all.
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def test_retry_after_is_the_queue_over_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.monotonic()
    monkeypatch.setattr("gateway.inference.admission.monotonic", lambda: clock)

    async def run() -> None:
        nonlocal clock
        bulk, model = lane(MANY), Model()
        [task] = await started(ask(bulk, model, "bulk", [16] * 64))
        for _ in range(8):
            clock += 0.25
            await model.finish(1)
        # 16 rows in 0.25 s are 64 a second, of 1,024 - 128 - 32.
        assert bulk.waiting == 864
        assert bulk.retry_after() == 14
        for _ in range(64):
            await model.finish(1)
        await task

    asyncio.run(run())


def test_a_burst_is_a_moment_s_work_once_the_rate_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.monotonic()
    monkeypatch.setattr("gateway.inference.admission.monotonic", lambda: clock)

    async def run() -> None:
        nonlocal clock
        small, model = lane(), Model()
        # Nobody waits, and yet the rate is seen: a slow model's, 32 rows in a second.
        for _ in range(4):
            tasks = await started(*(ask(small, model, "one", [1]) for _ in range(LEAST_WINDOW)))
            clock += 1
            await model.finish(LEAST_WINDOW)
            await asyncio.gather(*tasks)
        tasks = await started(*(ask(small, model, "burst", [1]) for _ in range(AT_ONCE)))
        with pytest.raises(Overloaded) as raised:
            Visit(small, 1, later()).__enter__()
        assert raised.value.retry_after == (AT_ONCE - LEAST_WINDOW) / LEAST_WINDOW
        for _ in range(AT_ONCE):
            await model.finish(1)
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_the_metrics_show_no_row_when_none_waits() -> None:
    async def run() -> None:
        bulk, model = Admission(16384).lane("a-model-in-metrics", MANY, 0), Model()
        labels = {"model": "a-model-in-metrics", "lane": "bulk"}
        tasks = await started(ask(bulk, model, "first", [16] * 2))
        with Visit(bulk, 16, later()) as visit:
            tasks += await started(ask(bulk, model, "second", [16]))
            assert REGISTRY.get_sample_value("embedding_queue_rows", labels) == 32
            for _ in range(3):
                await model.finish(1)
            # The last turn is taken without a wait.
            (await visit.turn(16)).leave()
        await asyncio.gather(*tasks)
        assert REGISTRY.get_sample_value("embedding_queue_rows", labels) == 0

    asyncio.run(run())


def test_whoever_is_late_or_goes_is_dropped_and_the_next_takes_the_place() -> None:
    async def run() -> None:
        small, model = lane(), Model()
        first = await started(ask(small, model, "first", [1] * LEAST_WINDOW))
        late, gone, patient = await started(
            ask(small, model, "late", [1], later(0.02)),
            ask(small, model, "gone", [1]),
            ask(small, model, "patient", [1]),
        )
        with pytest.raises(DeadlineExceeded):
            await late
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        with pytest.raises(DeadlineExceeded):
            await ask(small, model, "late already", [1], later(0))
        assert small.waiting == 1
        await model.finish(LEAST_WINDOW)
        assert model.sent == ["first"] * LEAST_WINDOW + ["patient"]
        await model.finish(1)
        await asyncio.gather(*first, patient)
        assert small.waiting == small.requests == 0

    asyncio.run(run())


def test_rows_that_nobody_waits_for_still_count_until_triton_is_done() -> None:
    async def run() -> None:
        small, model = lane(), Model()
        [first] = await started(ask(small, model, "first", [1] * LEAST_WINDOW))
        first.cancel()
        [second] = await started(ask(small, model, "second", [1]))
        assert "second" not in model.sent
        await model.finish(LEAST_WINDOW)
        assert model.sent[-1] == "second"
        await model.finish(1)
        await second

    asyncio.run(run())


def test_after_a_failure_nothing_more_is_sent() -> None:
    async def run() -> None:
        bulk = lane(MANY)
        sent = []

        async def fail(number: int, _: Turn) -> None:
            sent.append(number)
            raise ValueError("a fault")

        with pytest.raises(ValueError, match="a fault"), Visit(bulk, 160, later()) as visit:
            await in_turns(visit, dict.fromkeys(range(10), 16), fail)
        assert len(sent) < 10
        with Visit(bulk, LEAST_WINDOW, later(0)) as visit:
            await visit.turn(LEAST_WINDOW)

    asyncio.run(run())


def test_a_call_that_timed_out_still_counts_until_triton_is_done() -> None:
    async def run() -> None:
        small, model = lane(), Model()
        with Visit(small, LEAST_WINDOW, later()) as visit, await visit.turn(LEAST_WINDOW) as turn:
            turn.began()
        [second] = await started(ask(small, model, "second", [1]))
        assert model.sent == []
        turn.ended()
        await started()
        assert model.sent == ["second"]
        await model.finish(1)
        await second

    asyncio.run(run())
