"""Takes a request through its lane of `admission.py`: one slot in Triton after another."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Self

from gateway.concurrency import Deadline
from gateway.inference.admission import Lane


class Ticket:
    """One request in a lane; a context.

    Raises on entry:
        Overloaded: The lane refuses it.

    Args:
        lane: Where it waits.
        rows: Its inputs.
        work: What they cost, in the lane's unit.
        deadline: When it is given up.
    """

    __slots__ = ("_deadline", "_first", "_lane", "_rows", "_work_per_row")

    def __init__(self, lane: Lane, rows: int, work: float, deadline: Deadline) -> None:
        self._lane = lane
        self._rows = rows
        self._work_per_row = work / rows
        self._deadline = deadline
        self._first: Slot | None = None

    def __enter__(self) -> Self:
        """Join the queue."""
        self._lane.arrive(self._rows, self._rows * self._work_per_row, self._deadline)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drop the part that has not gone to Triton."""
        self._lane.leave(self._rows, self._rows * self._work_per_row, kind)
        if self._first is not None:
            self._first.leave()

    async def acquire_first(self, rows: int) -> None:
        """Take the first slot ahead of the work for it, which then waits where dropping it costs least.

        `rows` is as many as any slot of this ticket will be for.

        Raises:
            DeadlineExceeded: The deadline passed before.
        """
        self._first = await self.acquire(rows)

    async def acquire(self, rows: int) -> "Slot":
        """Take room in Triton for `rows` of this ticket's inputs, when it is its turn.

        Raises:
            DeadlineExceeded: The deadline passed before.
        """
        lane = self._lane
        if self._first is not None:
            slot, self._first = self._first, None
            released = slot.shrink(rows)
            self._rows += released
            lane.waiting += released
            lane.waiting_work += released * self._work_per_row
            return slot
        work = rows * self._work_per_row
        waited = not lane.enter(rows, work)
        if waited:
            await lane.wait(rows, work, self._deadline)
        self._rows -= rows
        lane.take(rows, work)
        if waited:
            lane.show()
        return Slot(lane, rows, self._work_per_row)


class Slot:
    """Room in Triton. It is given back when it was left and its calls have ended, however long after that.

    Triton still computes a call that nobody waits for any more; see `triton_models/client/requests.py`.
    """

    __slots__ = ("_began", "_calls", "_lane", "_left", "_rows", "_work_per_row")

    def __init__(self, lane: Lane, rows: int, work_per_row: float) -> None:
        self._lane = lane
        self._rows = rows
        self._work_per_row = work_per_row
        self._began = False
        self._calls = 0
        self._left = False

    def __enter__(self) -> Self:
        """Nothing to do: it is held from the beginning."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave it."""
        self.leave()

    def leave(self) -> None:
        """Begin no other call in it."""
        self._left = True
        self._give_back()

    def shrink(self, rows: int) -> int:
        """Keep `rows` of it; return how many are given back."""
        released, self._rows = self._rows - rows, rows
        self._lane.give(released, released * self._work_per_row, done=0.0)
        return released

    def began(self) -> None:
        """A call has gone to Triton."""
        self._began = True
        self._calls += 1

    def ended(self) -> None:
        """A call has ended in Triton."""
        self._calls -= 1
        self._give_back()

    def _give_back(self) -> None:
        if self._left and not self._calls:
            work = self._rows * self._work_per_row
            self._lane.give(self._rows, work, done=work if self._began else 0.0)


_CALLS: set[asyncio.Task[None]] = set()
"""Those under way; their requests may have ended."""


async def run_in_slots(
    ticket: Ticket, sizes: Mapping[int, int], call: Callable[[int, Slot], Coroutine[None, None, None]]
) -> None:
    """Run `call` of each number in `sizes` when there is a slot for as many rows; raise the first failure.

    After a failure no other call is begun, and it is raised when all that were begun have ended. A request
    that is cancelled or out of time does not wait for them: they go on by themselves.
    """
    tasks: list[asyncio.Task[None]] = []
    failed: list[asyncio.Task[None]] = []

    async def one(number: int, slot: Slot) -> None:
        with slot:
            await call(number, slot)

    def end(task: asyncio.Task[None]) -> None:
        _CALLS.discard(task)
        if task.cancelled() or task.exception() is not None:
            failed.append(task)

    for number, rows in sizes.items():
        slot = await ticket.acquire(rows)
        if failed:
            slot.leave()
            break
        task = asyncio.create_task(one(number, slot))
        tasks.append(task)
        _CALLS.add(task)
        task.add_done_callback(end)
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        task.result()
