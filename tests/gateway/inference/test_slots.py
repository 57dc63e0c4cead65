"""Slots in Triton are held until its calls have ended, whatever becomes of the request."""

import asyncio

import pytest

from gateway.inference.admission import LEAST_WINDOW
from gateway.inference.slots import Slot, Ticket, run_in_slots
from tests.support.admission import MANY, Model, ask, lane, later, started


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

        async def fail(number: int, _: Slot) -> None:
            sent.append(number)
            raise ValueError("a fault")

        with pytest.raises(ValueError, match="a fault"), Ticket(bulk, 160, 160, later()) as ticket:
            await run_in_slots(ticket, dict.fromkeys(range(10), 16), fail)
        assert len(sent) < 10
        with Ticket(bulk, LEAST_WINDOW, LEAST_WINDOW, later(0)) as ticket:
            await ticket.acquire(LEAST_WINDOW)

    asyncio.run(run())


def test_a_call_that_timed_out_still_counts_until_triton_is_done() -> None:
    async def run() -> None:
        small, model = lane(), Model()
        with (
            Ticket(small, LEAST_WINDOW, LEAST_WINDOW, later()) as ticket,
            await ticket.acquire(LEAST_WINDOW) as slot,
        ):
            slot.began()
        [second] = await started(ask(small, model, "second", [1]))
        assert model.sent == []
        slot.ended()
        await started()
        assert model.sent == ["second"]
        await model.finish(1)
        await second

    asyncio.run(run())
