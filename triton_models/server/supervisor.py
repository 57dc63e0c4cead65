"""The Triton that serves, as the gateway sees it: the embedded one, or one at TRITON_GRPC_URL.

Hides who started it and when it comes and goes; holds the client to where it is now.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from triton_models.client.channel import OPEN, Access
from triton_models.client.client import TritonClient
from triton_models.client.errors import EmbeddedTritonError, TritonTimeout, TritonUnavailable
from triton_models.server.embedded import Addresses
from triton_models.server.owner import SharedTriton
from triton_models.server.stubs import Stubs

RESTART_SECONDS = 60.0
_CLOSE_SECONDS = 5.0
_END_SECONDS = 1.5
"""In which the end of a Triton that crashed is noticed, with its log looked at four times a second."""

logger = logging.getLogger(__name__)


class Triton:
    """Used as an asynchronous context manager; entering does not wait until Triton answers.

    repository_root: what the embedded Triton serves. response_cache: its RESPONSE_CACHE.
    grpc_url: "host:port" of a Triton that is there already; None starts the embedded one.
    metrics_url: "host:port" of that one's metrics. access: what it asks for. channels: connections to it.
    on_restart: called when the embedded one has come up again.
    """

    def __init__(
        self,
        repository_root: Path,
        response_cache: str,
        *,
        grpc_url: str | None = None,
        metrics_url: str | None = None,
        channels: int = 2,
        access: Access = OPEN,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self._root = repository_root
        self._response_cache = response_cache
        self._elsewhere = None if grpc_url is None else Addresses(grpc_url, metrics_url)
        self._channels = channels
        self._access = access
        self._on_restart = on_restart
        self._addresses: Addresses | None = None
        self._client: TritonClient | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Condition()
        self._shared: SharedTriton | None = None
        self._task: asyncio.Task[None] | None = None
        self.generation = 0
        """Counts the connections made: another number may mean another Triton, with nothing loaded."""
        self.stubs: Stubs | None = None
        """Its models' processes, where Triton runs on this host."""

    async def __aenter__(self) -> "Triton":
        """Begin; one that cannot be started shows in `last_error`, and starting it is tried again."""
        if self._elsewhere is not None:
            await self._move(self._elsewhere)
            return self
        self._shared = SharedTriton(self._root, self._response_cache, self._move)
        self._task = asyncio.create_task(self._shared.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._move(None)
        await asyncio.gather(*self._closing)

    @property
    def client(self) -> TritonClient:
        """The client to the Triton of this moment.

        Raises:
            TritonUnavailable: there is none.

        """
        if self._client is None:
            raise TritonUnavailable("Triton is starting")
        return self._client

    @property
    def metrics_address(self) -> str | None:
        """Where Triton's own metrics are, as "host:port" or "unix:PATH"; None where that is not known."""
        return None if self._addresses is None else self._addresses.metrics

    @property
    def last_error(self) -> str | None:
        """Why the embedded Triton is not up, for the operator; None while it is."""
        return None if self._shared is None else self._shared.last_error

    @property
    def is_owner(self) -> bool:
        """Whether the embedded Triton is this process's child, which it ends with."""
        return self._shared is not None and self._shared.is_owner

    @property
    def is_elsewhere(self) -> bool:
        """Whether it is one of TRITON_GRPC_URL, that nobody here can start."""
        return self._elsewhere is not None

    async def reconnect(self) -> None:
        """Find the Triton of TRITON_GRPC_URL anew: its name may have another address, its connection be dead.

        Calls under way fail after some seconds.
        """
        await self._move(self._elsewhere)

    async def wait_ready(self, timeout: float) -> None:
        """Wait until Triton answers.

        Raises:
            EmbeddedTritonError: it failed to start. TritonTimeout: it did not within `timeout` seconds.

        """
        deadline = asyncio.get_running_loop().time() + timeout
        while self._client is None or not await self._client.server_ready(1.0):
            if self.last_error is not None:
                raise EmbeddedTritonError(self.last_error)
            if asyncio.get_running_loop().time() > deadline:
                raise TritonTimeout("Triton did not answer in time")
            await asyncio.sleep(0.05)

    async def restart(self) -> None:
        """Kill the embedded Triton and wait until the next one answers; all models must be loaded anew.

        For a Triton that is not ours, nothing can be done.

        Raises:
            TritonTimeout: the next one did not come up.

        """
        if self._shared is None:
            logger.error("the Triton at %s should be started again", self._elsewhere)
            return
        seen = self.generation
        self._shared.restart()
        await self._wait_for_next(seen)

    async def has_ended(self, seen: int) -> bool:
        """Whether the Triton of generation `seen` is gone, or goes in a moment; then the next one is there.

        Raises:
            TritonTimeout: the next one did not come up.

        """
        try:
            async with asyncio.timeout(_END_SECONDS), self._changed:
                await self._changed.wait_for(lambda: self._client is None or self.generation != seen)
        except TimeoutError:
            return False
        await self._wait_for_next(seen)
        return True

    async def _wait_for_next(self, seen: int) -> None:
        try:
            async with asyncio.timeout(RESTART_SECONDS), self._changed:
                await self._changed.wait_for(lambda: self.generation != seen and self._client is not None)
        except TimeoutError as error:
            raise TritonTimeout("Triton did not come up again in time") from error

    async def _move(self, addresses: Addresses | None) -> None:
        """Let go of the old client and make the one for `addresses`."""
        old, self._client = self._client, None
        self._addresses = addresses
        self.stubs = None
        if addresses is not None:
            if addresses.pid is not None:
                self.stubs = Stubs(addresses.pid)
            self._client = TritonClient(addresses.grpc, self._channels, self._access)
            self.generation += 1
            # Of the processes that share an embedded one, only its owner tells.
            if self.generation > 1 and self._shared is not None and self._shared.is_owner:
                self._on_restart()
        if old is not None:
            # Its calls fail by themselves, their Triton is gone; closing at once would cancel their callers.
            task = asyncio.create_task(old.close(_CLOSE_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        async with self._changed:
            self._changed.notify_all()
