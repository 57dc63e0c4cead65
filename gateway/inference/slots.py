"""A request's way through a lane of `admission.py`: it takes turns, each for some of its rows."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from types import TracebackType
from typing import Self

from gateway.inference.admission import Lane
from gateway.inference.deadline import Deadline


class Visit:
    """One request in a lane, with so many rows; a context.

    Raises on entry:
        Overloaded: it would have to wait for too long.
    """

    __slots__ = ("_deadline", "_held", "_lane", "_rows")

    def __init__(self, lane: Lane, rows: int, deadline: Deadline) -> None:
        self._lane = lane
        self._rows = rows
        self._deadline = deadline
        self._held: Turn | None = None

    def __enter__(self) -> Self:
        """Be let in, or Overloaded."""
        self._lane.arrive(self._rows)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What has not gone to Triton is dropped."""
        self._lane.leave(self._rows, kind)
        if self._held is not None:
            self._held.leave()

    async def hold(self, rows: int) -> None:
        """Take the first turn ahead of the work for it, which then waits where dropping it costs least.

        rows: as many as any turn of this visit will be for.

        Raises:
            DeadlineExceeded: as `turn`.
        """
        self._held = await self.turn(rows)

    async def turn(self, rows: int) -> "Turn":
        """The right to have `rows` rows in Triton, of those that the visit is for.

        Raises:
            DeadlineExceeded: the deadline passed before.
        """
        lane = self._lane
        if self._held is not None:
            turn, self._held = self._held, None
            over = turn.keep(rows)
            self._rows += over
            lane.waiting += over
            return turn
        waited = not lane.enter(rows)
        if waited:
            await lane.wait(rows, self._deadline)
        self._rows -= rows
        lane.waiting -= rows
        if waited:
            lane.show()
        return Turn(lane, rows)


class Turn:
    """Rows in Triton. Given back when it was left and its calls have ended, however long after that.

    A call that nobody waits for any more is still computed; see `triton_models/client/requests.py`.
    """

    __slots__ = ("_began", "_calls", "_lane", "_left", "_rows")

    def __init__(self, lane: Lane, rows: int) -> None:
        self._lane = lane
        self._rows = rows
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
        """Nobody begins another call."""
        self._left = True
        self._give_back()

    def keep(self, rows: int) -> int:
        """Give back all but `rows`; how many that is."""
        over, self._rows = self._rows - rows, rows
        self._lane.give(over, done=0)
        return over

    def began(self) -> None:
        """A call has gone to Triton."""
        self._began = True
        self._calls += 1

    def ended(self) -> None:
        """It has ended there."""
        self._calls -= 1
        self._give_back()

    def _give_back(self) -> None:
        if self._left and not self._calls:
            self._lane.give(self._rows, done=self._rows if self._began else 0)


_CALLS: set[asyncio.Task[None]] = set()
"""Those under way; their requests may have ended."""


async def in_turns(
    visit: Visit, sizes: Mapping[int, int], call: Callable[[int, Turn], Coroutine[None, None, None]]
) -> None:
    """`call` of each number in `sizes`, when there is a turn for as many rows; the first failure is raised.

    After a failure none is begun any more, and it is raised when all that were have ended. Who is cancelled
    or out of time does not wait for them: they go on by themselves.
    """
    tasks: list[asyncio.Task[None]] = []
    failed: list[asyncio.Task[None]] = []

    async def one(number: int, turn: Turn) -> None:
        with turn:
            await call(number, turn)

    def end(task: asyncio.Task[None]) -> None:
        _CALLS.discard(task)
        if task.cancelled() or task.exception() is not None:
            failed.append(task)

    for number, rows in sizes.items():
        turn = await visit.turn(rows)
        if failed:
            turn.leave()
            break
        task = asyncio.create_task(one(number, turn))
        tasks.append(task)
        _CALLS.add(task)
        task.add_done_callback(end)
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        task.result()
