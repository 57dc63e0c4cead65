"""A bound on what several tasks hold at once: bytes of memory, say.

Knows nothing about what is counted.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """A semaphore with weights, first come, first served, for one event loop.

    Who asks for more than there is at all gets everything, alone: it is slow then, not impossible. Nobody
    may ask for a second share while holding one: two such could wait for each other for ever.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def share(self, amount: int) -> AsyncIterator[None]:
        """Hold `amount` for as long as the context lasts."""
        taken = await self.take(amount)
        try:
            yield
        finally:
            self.give(taken)

    async def take(self, amount: int) -> int:
        """Hold `amount`, for which the answer is to be given back: by whoever outlives the task, say."""
        amount = min(amount, self._total)
        await self._wait_for(amount)
        return amount

    def give(self, amount: int) -> None:
        """Give back what `take` answered."""
        self._free += amount
        self._wake()

    async def _wait_for(self, amount: int) -> None:
        if not self._waiting and amount <= self._free:
            self._free -= amount
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((amount, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._wake()
            else:
                # It was granted in the moment of the cancellation.
                self.give(amount)
            raise

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
