"""The client of the request that a task works for: whether it is still there.

Nothing is watched until somebody waits for long: to most requests this costs the making of one object.

Source of the interface: the ASGI specification, version 3.
"""

import asyncio
from contextvars import ContextVar

from starlette.types import Message, Receive, Send

WATCHED_AFTER = 0.03
"""Seconds of waiting from which on it is worth to know whether the client is still there."""


class Caller:
    """One request's client. Whoever waits calls `watch`; if the client goes away, the task is cancelled.

    receive: of ASGI; the body must have been read when `watch` is called, since what comes is thrown away.
    """

    __slots__ = ("_receive", "_task", "_timer", "_watching", "gone")

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self._receive = receive
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """From in a moment on, cancel the request's task when the client goes away."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCHED_AFTER, self._begin)

    def close(self) -> None:
        """The request is answered."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def end(self) -> None:
        """The request is over. Its task's context holds this: neither must wait for a garbage collection."""
        self.close()
        self._task = self._timer = self._watching = None

    def until_answered(self, send: Send) -> Send:
        """`send` that closes this first: after an answer, what comes is of the next request."""

        async def answering(message: Message) -> None:
            self.close()
            await send(message)

        return answering

    def accept_end(self) -> None:
        """Take back the cancellation, so that the task can end as any other."""
        if self._task is not None:
            self._task.uncancel()

    def _begin(self) -> None:
        self._watching = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        if self._task is not None:
            self._task.cancel()


CALLER: ContextVar[Caller | None] = ContextVar("CALLER", default=None)
"""Of the request that is worked on; none outside of requests."""


def watch_caller() -> None:
    """Let the work for the request end when its client has gone; call it before a wait, body read."""
    caller = CALLER.get()
    if caller is not None:
        caller.watch()
