"""A weighted semaphore that requests share, and the deadline of each request."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from gateway.errors import DeadlineExceeded, InvalidInput


class WeightedSemaphore:
    """A weighted semaphore for one event loop; it serves waiters in order of arrival.

    A request for more than the total gets the total, so it runs alone instead of failing. A holder must not
    acquire a second share: two such holders could wait for each other forever.

    Args:
        total: the amount that all holders share.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def acquire(self, amount: int) -> AsyncIterator[None]:
        """Hold `amount`, at most the total, for the duration of the context."""
        taken = await self.take(amount)
        try:
            yield
        finally:
            self.give(taken)

    async def take(self, amount: int) -> int:
        """Wait for `amount` and return the amount taken, at most the total.

        The holder passes the result to `give`. Use this for work that outlives the task, else `acquire`.
        """
        amount = min(amount, self._total)
        if not self._waiting and amount <= self._free:
            self._free -= amount
            return amount
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._wake()
            else:
                # The amount was granted just before the cancellation arrived.
                self.give(amount)
            raise
        return amount

    def give(self, amount: int) -> None:
        """Release an amount that `take` returned."""
        self._free += amount
        self._wake()

    def _wake(self) -> None:
        while self._waiting:
            amount, turn = self._waiting[0]
            if turn.cancelled():
                self._waiting.popleft()
                continue
            if amount > self._free:
                return
            self._waiting.popleft()
            self._free -= amount
            turn.set_result(None)


class Deadline(NamedTuple):
    """The moment at which a request must end.

    Attributes:
        moment: seconds of `time.monotonic`.
        own: True if the caller set the time limit, False if it is the server's.
    """

    moment: float
    own: bool = False

    @classmethod
    def of(cls, timeout_ms: int | None, most: float) -> "Deadline":
        """Return the deadline that a time limit sets from now.

        Args:
            timeout_ms: the caller's limit in milliseconds; None to use the server's.
            most: the server's limit in seconds.

        Raises:
            InvalidInput: the caller's limit is longer than the server's.
        """
        now = time.monotonic()
        if timeout_ms is None:
            return cls(now + most)
        if timeout_ms > most * 1000:
            raise InvalidInput(
                f"timeout_ms: {timeout_ms} is more than this server's limit of {most * 1000:g}"
            )
        return cls(now + timeout_ms / 1000, own=True)

    def remaining(self) -> float:
        """Return the seconds that are left, more than 0.

        Raises:
            DeadlineExceeded: no time is left.
        """
        if (seconds := self.moment - time.monotonic()) <= 0:
            raise too_late()
        return seconds


def too_late() -> DeadlineExceeded:
    """Return the error of a request whose time limit has passed."""
    return DeadlineExceeded("the request outlived its time limit; send less, or retry")
