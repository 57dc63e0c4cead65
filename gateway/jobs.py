"""Loads in progress: one task a model, watched by any number of callers.

A caller that goes away does not end the load; a second caller joins the first one's.
"""

import asyncio
from collections.abc import AsyncIterator

from gateway.conversion import Progress, log_progress
from gateway.errors import Unavailable
from gateway.lifecycle import Lifecycle
from gateway.references import Reference
from triton_models.config import Tuning

AS_IT_IS = Tuning()
"""Leaves a model's configuration alone."""


class LoadJob:
    """One load: its last progress, and its end."""

    def __init__(
        self, lifecycle: Lifecycle, reference: Reference, revision: str | None, tuning: Tuning
    ) -> None:
        self.reference = reference
        self.progress = Progress("download", 0.0, f"looking for {reference}")
        self._changed = asyncio.Event()
        self._log = log_progress(str(reference))
        self.task = asyncio.create_task(lifecycle.load(reference, revision, tuning, self._on_progress))
        self.task.add_done_callback(lambda _: self._changed.set())

    async def result(self) -> str:
        """The sentence for the caller, or the load's error.

        Raises:
            Unavailable: the server ends, and with it the load.
        """
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if not self.task.cancelled():
                raise
            raise Unavailable(f"the server is shutting down; load {self.reference} again later") from None

    async def steps(self) -> AsyncIterator[Progress]:
        """Progress as it comes, from the present one to the last."""
        shown: Progress | None = None
        while True:
            if self.progress is not shown:
                shown = self.progress
                yield shown
            if self.task.done():
                return
            await self._changed.wait()

    def _on_progress(self, progress: Progress) -> None:
        self.progress = progress
        self._log(progress)
        self._changed.set()
        self._changed = asyncio.Event()


class LoadJobs:
    """The loads that this process carries out."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._jobs: dict[tuple[Reference, str | None, Tuning], LoadJob] = {}

    def start(self, reference: Reference, revision: str | None = None, tuning: Tuning = AS_IT_IS) -> LoadJob:
        """The load of this model: the one in progress, or a new one."""
        key = (reference, revision, tuning)
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = LoadJob(self._lifecycle, reference, revision, tuning)
            job.task.add_done_callback(lambda task: self._done(key, task))
        return job

    def running(self) -> list[LoadJob]:
        """The loads in progress."""
        return list(self._jobs.values())

    def end_conversions(self) -> None:
        """End the loads that Triton has no part in yet: they may take long."""
        for job in self._jobs.values():
            if job.progress.step in ("download", "convert", "verify"):
                job.task.cancel()

    async def close(self) -> None:
        """End all loads; converters are killed, the repository stays whole."""
        tasks = [job.task for job in self._jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, key: tuple[Reference, str | None, Tuning], task: asyncio.Task[str]) -> None:
        del self._jobs[key]
        # The callers raise it; this keeps asyncio from reporting it once more when none is left.
        if not task.cancelled():
            task.exception()
