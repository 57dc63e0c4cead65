"""Who waits, who is refused, and what is given back when somebody goes."""

import asyncio
import time

import pytest
from prometheus_client import REGISTRY

from gateway.concurrency import Deadline
from gateway.errors import DeadlineExceeded, Overloaded
from gateway.inference.admission import LEAST_WINDOW, Admission
from gateway.inference.slots import Ticket
from tests.support.admission import MANY, Model, ask, lane, later, started


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
        both, model = Admission(16384, 10), Model()
        bulk, small = both.lane("a-model", MANY, 0), both.lane("a-model", 1, 0)
        tasks = await started(ask(bulk, model, "bulk", [16] * 9), ask(small, model, "single", [1]))
        assert model.sent[-1] == "single"
        for _ in range(5):
            await model.finish(9)
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_one_request_is_always_let_in_and_the_rows_that_wait_are_bounded() -> None:
    async def run() -> None:
        bulk, model = lane(MANY, max_inputs=100), Model()
        tasks = await started(ask(bulk, model, "first", [16] * (MANY // 16)))
        with pytest.raises(Overloaded) as raised:
            Ticket(bulk, 101, 101, later()).__enter__()
        assert raised.value.retry_after is not None
        assert raised.value.retry_after >= 1
        for _ in range(MANY // 16):
            await model.finish(2)
        await asyncio.gather(*tasks)
        with Ticket(bulk, MANY, MANY, later()):
            pass

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


def test_a_request_is_let_in_until_a_rate_is_known_and_then_by_its_predicted_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = time.monotonic()
    monkeypatch.setattr("gateway.inference.admission.monotonic", lambda: clock)

    async def run() -> None:
        nonlocal clock
        small, model = lane(max_seconds=2), Model()
        # Nothing is known of the model: a crowd is let in.
        crowd = await started(*(ask(small, model, "crowd", [1]) for _ in range(1000)))
        # A slow model: 32 inputs a second.
        for _ in range(4):
            clock += 1
            await model.finish(LEAST_WINDOW)
        assert small.predicted_wait() == (1000 - 4 * LEAST_WINDOW) / LEAST_WINDOW
        with pytest.raises(Overloaded, match=r"872|about 27\.2 s") as raised:
            Ticket(small, 1, 1, later()).__enter__()
        assert raised.value.retry_after == 27
        while small.predicted_wait() > 2:
            clock += 1
            await model.finish(LEAST_WINDOW)
        with Ticket(small, 1, 1, later()):
            pass
        # It is refused where the caller would give up before.
        with pytest.raises(Overloaded, match="timeout_ms"):
            Ticket(
                small, 1, 1, Deadline(time.monotonic() + (clock - time.monotonic()) + 0.5, own=True)
            ).__enter__()
        while not all(task.done() for task in crowd):
            clock += 1
            await model.finish(LEAST_WINDOW)
        await asyncio.gather(*crowd)

    asyncio.run(run())


def test_the_rate_falls_as_well_as_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.monotonic()
    monkeypatch.setattr("gateway.inference.admission.monotonic", lambda: clock)

    async def run() -> None:
        nonlocal clock
        small, model = lane(), Model()

        async def pace(seconds: float) -> float:
            """Seconds of 32 waiting inputs after a few batches at this pace."""
            nonlocal clock
            for _ in range(12):
                tasks = await started(*(ask(small, model, "one", [1]) for _ in range(LEAST_WINDOW)))
                clock += seconds
                await model.finish(LEAST_WINDOW)
                await asyncio.gather(*tasks)
            tasks = await started(*(ask(small, model, "one", [1]) for _ in range(LEAST_WINDOW)))
            wait = small.predicted_wait()
            clock += seconds
            await model.finish(LEAST_WINDOW)
            await asyncio.gather(*tasks)
            return wait

        assert await pace(1) == pytest.approx(1, rel=0.05)
        assert await pace(4) == pytest.approx(4, rel=0.05)
        assert await pace(0.5) == pytest.approx(0.5, rel=0.05)

    asyncio.run(run())


def test_light_traffic_says_nothing_about_the_capacity(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.monotonic()
    monkeypatch.setattr("gateway.inference.admission.monotonic", lambda: clock)

    async def run() -> None:
        nonlocal clock
        small, model = lane(), Model()
        # One at a time: 10 a second, which is this model's latency.
        for _ in range(50):
            tasks = await started(ask(small, model, "one", [1]))
            clock += 0.1
            await model.finish(1)
            await asyncio.gather(*tasks)
        burst = await started(
            *(ask(small, model, "burst", [1], Deadline(clock + 1, own=True)) for _ in range(500))
        )
        assert small.waiting + LEAST_WINDOW == 500
        for task in burst:
            task.cancel()
        await asyncio.gather(*burst, return_exceptions=True)
        await model.finish(LEAST_WINDOW)
        # Nor does it lower what is known of it.
        for _ in range(4):
            tasks = await started(*(ask(small, model, "many", [1]) for _ in range(LEAST_WINDOW)))
            clock += 1
            await model.finish(LEAST_WINDOW)
            await asyncio.gather(*tasks)
        for _ in range(20):
            tasks = await started(ask(small, model, "one", [1]))
            clock += 0.1
            await model.finish(1)
            await asyncio.gather(*tasks)
        tasks = await started(*(ask(small, model, "many", [1]) for _ in range(LEAST_WINDOW)))
        assert small.predicted_wait() < 1.5
        await model.finish(LEAST_WINDOW)
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_a_request_that_is_late_already_is_no_overload() -> None:
    async def run() -> None:
        small = lane()
        with Ticket(small, 1, 1, Deadline(time.monotonic() - 1, own=True)):
            pass
        assert small.waiting == 0

    asyncio.run(run())


def test_a_long_text_counts_for_more_than_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = time.monotonic()
    monkeypatch.setattr("gateway.inference.admission.monotonic", lambda: clock)

    async def run() -> None:
        nonlocal clock
        small, model = lane(), Model()
        for _ in range(4):
            tasks = await started(*(ask(small, model, "gloss", [1], work=10) for _ in range(LEAST_WINDOW)))
            clock += 1
            await model.finish(LEAST_WINDOW)
            await asyncio.gather(*tasks)
        tasks = await started(*(ask(small, model, "passage", [1], work=100) for _ in range(LEAST_WINDOW)))
        assert small.predicted_wait() == pytest.approx(10)
        await model.finish(LEAST_WINDOW)
        await asyncio.gather(*tasks)

    asyncio.run(run())


def test_the_metrics_show_no_row_when_none_waits() -> None:
    async def run() -> None:
        bulk, model = Admission(16384, 10).lane("a-model-in-metrics", MANY, 0), Model()
        labels = {"model": "a-model-in-metrics", "lane": "bulk"}
        tasks = await started(ask(bulk, model, "first", [16] * 2))
        with Ticket(bulk, 16, 16, later()) as ticket:
            tasks += await started(ask(bulk, model, "second", [16]))
            assert REGISTRY.get_sample_value("embedding_queue_rows", labels) == 32
            for _ in range(3):
                await model.finish(1)
            # The last turn is taken without a wait.
            (await ticket.acquire(16)).leave()
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
        assert small.waiting == small.waiting_work == 0

    asyncio.run(run())
