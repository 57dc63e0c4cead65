"""One embedded Triton, shared by all processes of this host that serve one repository.

The process that holds the lock owns Triton: it starts and watches it, and writes its addresses to a file that
the others read. When the owner ends, the kernel kills its Triton and another process becomes the owner.
"""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from triton_models.client.errors import EmbeddedTritonError
from triton_models.repository.atomic_files import write_atomic
from triton_models.server.embedded import Addresses, EmbeddedTriton, state_directory
from triton_models.server.processes import command_line

FOLLOW_SECONDS = 0.2
WAITS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
"""The seconds before the next start, for each failed run in a row."""

WAIT_OF_A_RUN = 3
"""The largest index in WAITS while Triton does come up: the start is then not what fails."""

STABLE_SECONDS = 5.0
"""The time after which a run counts as good; the next start then does not wait."""

OnAddresses = Callable[[Addresses | None], Awaitable[None]]

logger = logging.getLogger(__name__)


class SharedTriton:
    """One process's share in the Triton on `repository_root`.

    Args:
        repository_root: Directory of the model repository.
        response_cache: Value of RESPONSE_CACHE.
        on_addresses: Awaited with Triton's addresses each time it has come up, and with None when it is gone.
    """

    def __init__(self, repository_root: Path, response_cache: str, on_addresses: OnAddresses) -> None:
        self._triton = EmbeddedTriton(repository_root, response_cache)
        self._directory = state_directory(repository_root.absolute())
        self._directory.mkdir(parents=True, exist_ok=True)
        self._record = self._directory / "server.json"
        self._lock = FileLock(self._directory / "owner.lock", timeout=0, thread_local=False)
        self._on_addresses = on_addresses
        self._seen: Addresses | None = None
        self._restart = asyncio.Event()
        self._last_error: str | None = None
        self.is_owner = False

    async def run(self) -> None:
        """Own Triton or follow its owner until cancelled; the owner's Triton ends with this task."""
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
        """Have Triton killed and started again, whichever process owns it, and return at once."""
        if self.is_owner:
            self._restart.set()
            return
        addresses = _read_record(self._record)
        if addresses is not None and addresses.pid and self._triton.mark in command_line(addresses.pid):
            with suppress(ProcessLookupError):
                os.kill(addresses.pid, signal.SIGKILL)

    async def _own(self) -> None:
        failures = 0
        loop = asyncio.get_running_loop()
        while True:
            try:
                served_since = await self._serve_once()
                good = loop.time() - served_since > STABLE_SECONDS
                failures = 0 if good else min(failures, WAIT_OF_A_RUN)
            except (EmbeddedTritonError, OSError) as error:
                # An OSError may be temporary: no memory for a process, or no room for the log.
                self._report(str(error))
            wait = WAITS[min(failures, len(WAITS) - 1)]
            if wait:
                logger.warning("Triton is started again in %g s", wait)
            await asyncio.sleep(wait)
            failures += 1

    async def _serve_once(self) -> float:
        """Run Triton from its start to its end; return the event loop's time at which it began to answer."""
        self._restart.clear()
        try:
            addresses = await self._triton.start()
            since = asyncio.get_running_loop().time()
            write_atomic(self._record, json.dumps(asdict(addresses)))
            self._last_error = None
            logger.info("Triton (pid %d) answers at %s", self._triton.pid, addresses.grpc)
            await self._on_addresses(addresses)
            self._report(await self._end_of_run())
        except asyncio.CancelledError:
            self._record.unlink(missing_ok=True)
            await self._triton.stop()
            raise
        else:
            return since
        finally:
            self._record.unlink(missing_ok=True)
            await self._on_addresses(None)
            await self._triton.kill()

    async def _end_of_run(self) -> str:
        """Wait until Triton has ended or a restart is requested, and return the reason."""
        ended = asyncio.ensure_future(self._triton.wait())
        restart = asyncio.ensure_future(self._restart.wait())
        try:
            await asyncio.wait((ended, restart), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                return f"Triton ended with status {ended.result()}; its log says:\n{self._triton.log_tail()}"
            return "Triton is started again on request"
        finally:
            ended.cancel()
            restart.cancel()

    async def _follow(self) -> None:
        """Read once the addresses that the owner wrote."""
        addresses = await asyncio.to_thread(_read_record, self._record)
        if addresses is not None and self._triton.mark not in command_line(addresses.pid or 0):
            addresses = None
        if addresses != self._seen:
            self._seen = addresses
            await self._on_addresses(addresses)

    def _report(self, error: str) -> None:
        if error != self._last_error:
            logger.error("%s", error)
        self._last_error = error


def _read_record(path: Path) -> Addresses | None:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return Addresses(record["grpc"], record["metrics"], int(record["pid"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
