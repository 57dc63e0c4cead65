"""Cancels the task of a request when the request's client disconnects.

The watch begins only when the task has waited for a while. To most requests it costs one object.

Source of the interface: the ASGI specification, version 3.
"""

import asyncio
from contextvars import ContextVar

from starlette.types import Message, Receive, Send

WATCHED_AFTER = 0.03
"""Seconds of waiting after which the watch for a disconnect begins."""


class DisconnectWatcher:
    """Watches one request's client. After `watch`, a disconnect cancels the task that made this object.

    Args:
        receive: ASGI's `receive`. The body must have been read before `watch` is called, because the watch
            discards messages.
    """

    __slots__ = ("_receive", "_task", "_timer", "_watching", "gone")

    def __init__(self, receive: Receive) -> None:
        self.gone = False
        self._receive = receive
        self._task = asyncio.current_task()
        self._timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None

    def watch(self) -> None:
        """Begin the watch after WATCHED_AFTER; from then on a disconnect cancels the request's task."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCHED_AFTER, self._begin)

    def close(self) -> None:
        """End the watch: the request is answered."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    def end(self) -> None:
        """End the watch and break the reference cycle with the task, so that both are freed at once."""
        self.close()
        self._task = self._timer = self._watching = None

    def until_answered(self, send: Send) -> Send:
        """Wrap `send` to end the watch first: messages after an answer belong to the next request."""

        async def answering(message: Message) -> None:
            self.close()
            await send(message)

        return answering

    def accept_end(self) -> None:
        """Take back the cancellation, so that the task can end normally."""
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


CALLER: ContextVar[DisconnectWatcher | None] = ContextVar("CALLER", default=None)
"""The watcher of the current request; None outside of requests."""


def watch_caller() -> None:
    """Watch the current request's client; call it before a long wait, when the body has been read."""
    caller = CALLER.get()
    if caller is not None:
        caller.watch()
