"""One embedded Triton for all processes of this host that serve one repository.

Whoever holds the lock starts it, watches it and writes where it answers; the others read that. When
the holder ends, the kernel ends its Triton, and another process takes its place.
"""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from triton_models.errors import EmbeddedTritonError
from triton_models.files import write_atomic
from triton_models.server.embedded import Addresses, EmbeddedTriton, state_directory
from triton_models.server.processes import command_line

FOLLOW_SECONDS = 0.2
WATCH_SECONDS = 0.5
BACKOFF_SECONDS = (0.5, 10.0)
STABLE_SECONDS = 30.0
"""A run this long was a good one: the next restart does not wait longer than the first."""

OnAddresses = Callable[[Addresses | None], Awaitable[None]]

logger = logging.getLogger(__name__)


class SharedTriton:
    """The part of one process in the Triton on `repository_root`.

    response_cache: as RESPONSE_CACHE. on_addresses: awaited with where Triton answers, each time it
    has come up, and with None when it is gone.
    """

    def __init__(self, repository_root: Path, response_cache: str, on_addresses: OnAddresses) -> None:
        self._triton = EmbeddedTriton(repository_root, response_cache)
        self._directory = state_directory(repository_root.absolute())
        self._directory.mkdir(parents=True, exist_ok=True)
        self._record = self._directory / "server.json"
        self._lock = FileLock(self._directory / "owner.lock", timeout=0, thread_local=False)
        self._on_addresses = on_addresses
        self._seen: str | None = None
        self._restart = asyncio.Event()
        self.last_error: str | None = None
        self.is_owner = False

    async def run(self) -> None:
        """Take part until cancelled; the Triton of the owner ends with its task."""
        while True:
            try:
                with self._lock:
                    self.is_owner = True
                    await self._own()
            except Timeout:
                await self._follow()
            finally:
                self.is_owner = False
            await asyncio.sleep(FOLLOW_SECONDS)

    def restart(self) -> None:
        """Have Triton killed and started again, whoever owns it. Returns at once."""
        if self.is_owner:
            self._restart.set()
            return
        pid = _read_record(self._record)[0]
        if pid is not None and self._triton.mark in command_line(pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def _own(self) -> None:
        shortest, longest = BACKOFF_SECONDS
        wait = shortest
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await self._serve_once()
            except (EmbeddedTritonError, OSError) as error:
                # OSError: no memory for a process, no room for the log: it may pass.
                self._report(str(error))
            if loop.time() - began > STABLE_SECONDS:
                wait = shortest
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)

    async def _serve_once(self) -> None:
        """One run of Triton, from its start to its end."""
        self._restart.clear()
        try:
            addresses = await self._triton.start()
            record = {"pid": self._triton.pid, "grpc": addresses.grpc, "metrics": addresses.metrics}
            write_atomic(self._record, json.dumps(record))
            self.last_error = None
            logger.info("Triton (pid %d) answers at %s", self._triton.pid, addresses.grpc)
            await self._on_addresses(addresses)
            self._report(await self._end_of_run())
        except asyncio.CancelledError:
            self._record.unlink(missing_ok=True)
            await self._triton.stop()
            raise
        finally:
            self._record.unlink(missing_ok=True)
            await self._triton.kill()
            await self._on_addresses(None)

    async def _end_of_run(self) -> str:
        """Wait until Triton has ended or must be ended; why."""
        ended = asyncio.ensure_future(self._triton.wait())
        restart = asyncio.ensure_future(self._restart.wait())
        try:
            while True:
                done, _ = await asyncio.wait(
                    (ended, restart), timeout=WATCH_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                if ended in done:
                    return (
                        f"Triton ended with status {ended.result()}; its log says:\n{self._triton.log_tail()}"
                    )
                if restart in done:
                    return "Triton is started again on request"
                if await asyncio.to_thread(self._triton.stub_died):
                    return (
                        "a model's process in Triton has ended, Triton is started again; its log says:\n"
                        + self._triton.log_tail()
                    )
        finally:
            ended.cancel()
            restart.cancel()

    async def _follow(self) -> None:
        """Look once at what the owner wrote."""
        pid, addresses = await asyncio.to_thread(_read_record, self._record)
        if addresses is not None and pid is not None and self._triton.mark not in command_line(pid):
            addresses = None
        key = None if addresses is None else f"{pid} {addresses}"
        if key != self._seen:
            self._seen = key
            await self._on_addresses(addresses)

    def _report(self, error: str) -> None:
        if error != self.last_error:
            logger.error("%s", error)
        self.last_error = error


def _read_record(path: Path) -> tuple[int | None, Addresses | None]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return int(record["pid"]), Addresses(record["grpc"], record["metrics"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None, None
