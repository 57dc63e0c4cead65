"""Locks models across processes, so that one at a time changes a model, and all see what it does."""

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
"""Seconds between two attempts to acquire a lock that another process holds."""


class ModelLocks:
    """The locks of models, and changes to their recorded state."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    async def record(self, parts: tuple[str, ...], **changes: object) -> None:
        """Set fields of the `ModelState` of all parts of a model; `changes` are its fields."""

        def change() -> None:
            for triton_name in parts:
                state = self._repository.state(triton_name)
                self._repository.set_state(triton_name, replace(state, **changes))  # type: ignore[arg-type]

        await asyncio.to_thread(change)

    @asynccontextmanager
    async def hold(
        self,
        parts: tuple[str, ...],
        activity: str | None,
        *,
        wait: bool = True,
        wait_for_removal: bool = False,
    ) -> AsyncIterator[None]:
        """Hold the locks of a model's parts, and record what is done under them as the parts' activity.

        Args:
            parts: Names in Triton.
            activity: The activity to record; None if the caller records it.
            wait: Whether to wait for another task that holds a lock.
            wait_for_removal: Whether to wait even for a task that unloads or deletes the model.

        Raises:
            ModelConflict: Another task unloads or deletes the model, and `wait_for_removal` is False; if
                `wait` is False, another task changes it at all.
            Unavailable: Triton failed in the context.
        """
        async with AsyncExitStack() as locks:
            # In sorted order, so that two tasks that change the same model cannot deadlock.
            for triton_name in sorted(parts):
                await locks.enter_async_context(self._locked(triton_name, wait, wait_for_removal))
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
    async def _locked(self, triton_name: str, wait: bool, wait_for_removal: bool) -> AsyncIterator[None]:
        lock = AsyncFileLock(self._repository.lock_path(triton_name), poll_interval=LOCK_POLL)
        try:
            await lock.acquire(timeout=0)
        except Timeout:
            state = await asyncio.to_thread(self._repository.state, triton_name)
            removed = state.activity in ("unloading", "deleting") and not wait_for_removal
            if removed or not wait:
                raise ModelConflict(
                    f"the model is {state.activity or 'changed'} at the moment; retry when it is done"
                ) from None
            await lock.acquire()
        try:
            yield
        finally:
            await lock.release()


def is_held(repository: Repository, triton_name: str) -> bool:
    """Return whether a process holds the model's lock; a dead process does not, whatever it recorded."""
    lock = FileLock(repository.lock_path(triton_name), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False
