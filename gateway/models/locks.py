"""Who changes a model: one at a time among all processes, and seen by all while it lasts."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from filelock import AsyncFileLock, FileLock, Timeout

from gateway.errors import ModelConflict, Unavailable
from triton_models.client.errors import TritonError
from triton_models.repository.repository import Repository

log = logging.getLogger(__name__)

LOCK_POLL = 0.05
"""Seconds between two tries to get a lock that another process holds."""


class Changes:
    """Locks of models, and what is recorded about them."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def record(self, parts: tuple[str, ...], **changes: object) -> None:
        """Set fields of the `ModelState` of all parts of a model."""

        def change() -> None:
            for served in parts:
                state = self._repository.state(served)
                self._repository.set_state(served, replace(state, **changes))  # type: ignore[arg-type]

        await asyncio.to_thread(change)

    @asynccontextmanager
    async def of(
        self, parts: tuple[str, ...], activity: str | None, *, wait: bool = True
    ) -> AsyncIterator[None]:
        """Hold the locks of a model's parts; what is done under them shows as the parts' activity.

        wait: False raises where another works on the model.

        Raises:
            ModelConflict: the model is being unloaded or deleted by another; of wait=False, changed at all.
        """
        async with AsyncExitStack() as locks:
            # In one order, so that two who change the same model cannot wait for each other.
            for served in sorted(parts):
                await locks.enter_async_context(self._locked(served, wait=wait))
            try:
                if activity is not None:
                    await self.record(parts, activity=activity)
                yield
            except TritonError as error:
                log.warning("%s: %s", ", ".join(parts), error)
                raise Unavailable("Triton is not ready; retry in a moment") from error
            finally:
                await self.record(parts, activity=None, admitted=None)

    @asynccontextmanager
    async def _locked(self, served: str, *, wait: bool) -> AsyncIterator[None]:
        lock = AsyncFileLock(self._repository.lock_path(served), poll_interval=LOCK_POLL)
        try:
            await lock.acquire(timeout=0)
        except Timeout:
            state = await asyncio.to_thread(self._repository.state, served)
            if state.activity in ("unloading", "deleting") or not wait:
                raise ModelConflict(
                    f"the model is {state.activity or 'changed'} at the moment; retry when it is done"
                ) from None
            await lock.acquire()
        try:
            yield
        finally:
            await lock.release()


def is_held(repository: Repository, served: str) -> bool:
    """Whether some process works on the model; what a dead one left in its state does not count."""
    lock = FileLock(repository.lock_path(served), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False
