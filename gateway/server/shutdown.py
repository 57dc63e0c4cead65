"""Graceful shutdown on SIGTERM and SIGINT: announce it, finish accepted requests, end all processes.

uvicorn alone would stop listening at once, so a load balancer would notice the shutdown only by failures.
Here uvicorn's handlers are called last:

1. `/health` answers 503. For `delay` seconds everything else continues as before.
2. New requests get 503, and their connections are closed. Conversions are ended. Other accepted requests
   have `timeout` seconds to finish; after that they get 503.
3. uvicorn ends the process. The gateway that owns Triton waits for the gateways of this host in step 2.

A second signal ends the process at once, and with it everything that it started.
"""

import asyncio
import fcntl
import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.error_responses import error_response
from gateway.errors import Unavailable

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
REPEATS = 2.0
"""Seconds within which a repeated signal is the same one, sent to the group and passed on by the parent."""

LINGER = 0.5
"""Seconds for which a server in use refuses requests before it closes connections: clients get a response."""

OTHERS = 1.0
"""Seconds within which a signal to all gateways reaches the last of them."""

STILL_ANSWERED = frozenset({"/health", "/health/live", "/metrics"})


class Shutdown:
    """Tracks accepted requests as an ASGI layer, and shuts the server down on a signal.

    Args:
        directory: Locks of the gateways that share an embedded Triton; None if Triton is external.
        timeout: Seconds that accepted requests have to finish.
        delay: Seconds from the signal until new requests are refused.
    """

    def __init__(self, directory: Path | None, *, timeout: float, delay: float) -> None:
        self._directory = directory
        self._timeout = timeout
        self._delay = delay
        self._requests: set[asyncio.Task[None]] = set()
        self._latest = float("-inf")
        self._refusing = False
        self._over = False
        self._began = 0.0
        self._held: dict[str, IO[bytes]] = {}
        self._task: asyncio.Task[None] | None = None
        self.server: uvicorn.Server | None = None
        """The server that runs the application; None if that is not uvicorn."""

    @property
    def begun(self) -> bool:
        """Return whether a signal has arrived."""
        return self._task is not None

    def around(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application: track its requests, and refuse new ones in step 2."""

        async def known(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] in STILL_ANSWERED:
                await app(scope, receive, send)
            elif self._refusing:
                await refuse(scope, receive, send)
            else:
                await self._accept(app, scope, receive, send)

        return known

    async def _accept(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.current_task()
        assert task is not None
        started = False

        async def send_and_note(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        self._requests.add(task)
        self._latest = asyncio.get_running_loop().time()
        try:
            await app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            if started or not self._over:
                raise
            await refuse(scope, receive, send)
        finally:
            self._requests.discard(task)

    @contextmanager
    def handling(self, end_conversions: Callable[[], None]) -> Iterator[None]:
        """Handle the signals in place of uvicorn; another server keeps its own handlers.

        Args:
            end_conversions: Called in step 2.
        """
        self._hold("present")
        server = self.server = uvicorn_server()
        if server is None:
            yield
            return
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number, server, end_conversions)
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)
                signal.signal(number, server.handle_exit)

    def _on_signal(
        self,
        number: signal.Signals,
        server: uvicorn.Server,
        end_conversions: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        if self._task is None:
            self._began = loop.time()
            self._task = loop.create_task(self._end(number, server, end_conversions))
        elif loop.time() - self._began > REPEATS:
            log.warning("%s again: ended at once", number.name)
            # Triton and converters end with this process.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    async def _end(
        self,
        number: signal.Signals,
        server: uvicorn.Server,
        end_conversions: Callable[[], None],
    ) -> None:
        log.info("%s: %d requests are finished, then the server ends", number.name, len(self._requests))
        self._hold("draining")
        await asyncio.sleep(self._delay)
        self._refusing = True
        end_conversions()
        await self._finish()
        self._release("draining")
        server.handle_exit(number, None)

    async def _finish(self) -> None:
        """Wait for accepted requests; cancel them after the timeout."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timeout
        if loop.time() - self._latest < LINGER:
            await asyncio.sleep(min(LINGER, self._timeout))
        if self._requests:
            await asyncio.wait(self._requests, timeout=max(0.0, deadline - loop.time()))
        if self._requests:
            log.warning("%d requests were not finished within SHUTDOWN_TIMEOUT", len(self._requests))
            self._over = True
            for task in self._requests:
                task.cancel()
            await asyncio.wait(self._requests, timeout=LINGER)

    async def wait_for_others(self) -> None:
        """Wait until no other gateway is finishing requests; for the gateway that ends Triton."""
        self._release("present")
        if self._directory is None or not self.begun or self._is_free("present"):
            return
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._began + OTHERS - loop.time()))
        deadline = self._began + self._delay + self._timeout + LINGER
        while not self._is_free("draining") and loop.time() < deadline:
            await asyncio.sleep(0.05)

    def _hold(self, name: str) -> None:
        """Share a lock with other gateways; the kernel releases it when this process ends."""
        if self._directory is not None:
            self._held[name] = self._path(name).open("ab")
            fcntl.flock(self._held[name], fcntl.LOCK_SH)

    def _release(self, name: str) -> None:
        if name in self._held:
            self._held.pop(name).close()

    def _is_free(self, name: str) -> bool:
        """Return whether no process holds a lock."""
        with self._path(name).open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def _path(self, name: str) -> Path:
        assert self._directory is not None
        self._directory.mkdir(parents=True, exist_ok=True)
        return self._directory / f"{name}.lock"


def uvicorn_server() -> uvicorn.Server | None:
    """Return the server that handles this process's signals, if it is uvicorn."""
    servers = {getattr(signal.getsignal(number), "__self__", None) for number in SIGNALS}
    server = servers.pop()
    return server if not servers and isinstance(server, uvicorn.Server) else None


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer that the server is shutting down, and close the connection."""
    response = error_response(Unavailable("the server is shutting down; retry in a moment"), scope)
    response.headers["Connection"] = "close"
    await response(scope, receive, send)
