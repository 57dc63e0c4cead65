"""A fake model that computes when told to, and requests that wait for it in a lane of the admission queue."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.concurrency import Deadline
from gateway.inference.admission import Admission, Lane
from gateway.inference.slots import Slot, Ticket, run_in_slots

MANY = 4096


def later(seconds: float = 60) -> Deadline:
    return Deadline(time.monotonic() + seconds)


class Model:
    """Fake model that notes each call; a call lasts until `finish` ends it."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self._under_way: list[asyncio.Event] = []

    def call(self, name: str) -> Callable[[int, Slot], Coroutine[None, None, None]]:
        async def one(_: int, slot: Slot) -> None:
            self.sent.append(name)
            event = asyncio.Event()
            self._under_way.append(event)
            slot.began()
            try:
                await event.wait()
            finally:
                slot.ended()

        return one

    async def finish(self, number: int) -> None:
        ended, self._under_way = self._under_way[:number], self._under_way[number:]
        for event in ended:
            event.set()
        for _ in range(5):
            await asyncio.sleep(0)


async def ask(
    lane: Lane,
    model: Model,
    name: str,
    sizes: list[int],
    deadline: Deadline | None = None,
    *,
    work: float | None = None,
) -> None:
    with Ticket(lane, sum(sizes), work or sum(sizes), deadline or later()) as ticket:
        await run_in_slots(ticket, dict(enumerate(sizes)), model.call(name))


def lane(inputs: int = 1, max_inputs: int = 16384, max_seconds: float = 10) -> Lane:
    return Admission(max_inputs, max_seconds).lane("a-model", inputs, 0)


async def started(*work: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(one) for one in work]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks
