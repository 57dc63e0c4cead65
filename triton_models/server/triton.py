"""The Triton that serves, as the gateway sees it: the embedded one, or one at TRITON_GRPC_ADDRESS.

It hides which process started Triton and when Triton restarts, and holds the client for its current address.
The embedded Triton is started, watched and started again by `owner.py`.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from triton_models.client.channel import OPEN, ChannelOptions
from triton_models.client.client import TritonClient
from triton_models.client.errors import TritonTimeout, TritonUnavailable
from triton_models.server.embedded import Addresses
from triton_models.server.owner import SharedTriton
from triton_models.server.stubs import Stubs

RESTART_SECONDS = 60.0
_CLOSE_SECONDS = 5.0
_END_SECONDS = 1.5
"""The time within which a crash of Triton is noticed; its log is searched four times a second."""

logger = logging.getLogger(__name__)


class Triton:
    """The Triton that serves, an asynchronous context manager; entering does not wait until Triton answers.

    Args:
        repository_root: Directory that the embedded Triton serves.
        response_cache: Value of RESPONSE_CACHE for the embedded Triton.
        grpc_url: "host:port" of a running Triton; None starts the embedded one.
        metrics_url: "host:port" of the running Triton's metrics.
        channels: Number of connections to Triton.
        access: TLS and headers that Triton requires.
        on_restart: Called when the embedded Triton has come up again.
    """

    def __init__(
        self,
        repository_root: Path,
        response_cache: str,
        *,
        grpc_url: str | None = None,
        metrics_url: str | None = None,
        channels: int = 2,
        access: ChannelOptions = OPEN,
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
        """The number of connections made. A changed number may mean a new Triton with nothing loaded."""
        self.stubs: Stubs | None = None
        """The processes of the models, if Triton is the embedded one."""

    async def __aenter__(self) -> "Triton":
        """Begin to start Triton or connect to it; a failed start is logged and tried again."""
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
        """The client for the current Triton.

        Raises:
            TritonUnavailable: There is no Triton at the moment.
        """
        if self._client is None:
            raise TritonUnavailable("Triton is starting")
        return self._client

    @property
    def metrics_address(self) -> str | None:
        """The address of Triton's own metrics, "host:port" or "unix:PATH"; None if it is not known."""
        return None if self._addresses is None else self._addresses.metrics

    @property
    def is_owner(self) -> bool:
        """True if the embedded Triton is a child of this process and ends with it."""
        return self._shared is not None and self._shared.is_owner

    @property
    def is_elsewhere(self) -> bool:
        """True for the Triton at TRITON_GRPC_ADDRESS, which this process cannot start."""
        return self._elsewhere is not None

    async def reconnect(self) -> None:
        """Connect again to the Triton at TRITON_GRPC_ADDRESS.

        Its name may have another address by now, or the connection may be dead. Running calls fail after some
        seconds.
        """
        await self._move(self._elsewhere)

    async def restart(self) -> None:
        """Kill the embedded Triton and wait until the next one answers; all models must be loaded again.

        For a Triton at TRITON_GRPC_ADDRESS this only logs an error.

        Raises:
            TritonTimeout: The next Triton did not come up.
        """
        if self._shared is None:
            logger.error("the Triton at %s should be started again", self._elsewhere)
            return
        seen = self.generation
        self._shared.restart()
        await self._wait_for_next(seen)

    async def has_ended(self, seen: int) -> bool:
        """Return whether the Triton of generation `seen` has ended or ends within `_END_SECONDS`.

        If it has, the call returns once the next Triton has come up.

        Raises:
            TritonTimeout: The next Triton did not come up.
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
        """Drop the old client and make the one for `addresses`."""
        old, self._client = self._client, None
        self._addresses = addresses
        self.stubs = None
        if addresses is not None:
            if addresses.pid is not None:
                self.stubs = Stubs(addresses.pid)
            self._client = TritonClient(addresses.grpc, self._channels, self._access)
            self.generation += 1
            # Only the owner of a shared Triton reports the restart.
            if self.generation > 1 and self._shared is not None and self._shared.is_owner:
                self._on_restart()
        if old is not None:
            # The old client's calls fail by themselves, as their Triton is gone. Closing the client at once
            # would cancel their callers.
            task = asyncio.create_task(old.close(_CLOSE_SECONDS))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        async with self._changed:
            self._changed.notify_all()
