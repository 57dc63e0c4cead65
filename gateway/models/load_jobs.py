"""Runs loads, each in a task that any number of callers can wait for.

A load goes on when its caller disconnects. A second caller for the same load joins the first one's.
"""

import asyncio
from collections.abc import AsyncIterator

from gateway.errors import Unavailable
from gateway.model_id import ModelId
from gateway.models.converter import Progress, log_progress
from gateway.models.lifecycle import Lifecycle
from gateway.telemetry.tracing import StepSpans, span
from triton_models.contract.config import Tuning

AS_IT_IS = Tuning()
"""A tuning that leaves a model's configuration as it is."""


class LoadJob:
    """One load, with its latest progress and its result."""

    def __init__(self, lifecycle: Lifecycle, model_id: ModelId, revision: str | None, tuning: Tuning) -> None:
        self.model_id = model_id
        self.progress = Progress("download", 0.0, f"looking for {model_id}")
        self._changed = asyncio.Event()
        self._log = log_progress(str(model_id))
        self.task = asyncio.create_task(self._load(lifecycle, revision, tuning))
        self.task.add_done_callback(lambda _: self._changed.set())

    async def _load(self, lifecycle: Lifecycle, revision: str | None, tuning: Tuning) -> str:
        """Load the model; each step that is reported to callers is a span."""
        with span("load model"):
            steps = StepSpans()

            def on_progress(progress: Progress) -> None:
                steps.begin(progress.step)
                self._on_progress(progress)

            try:
                return await lifecycle.load(self.model_id, revision, tuning, on_progress)
            finally:
                steps.end()

    async def result(self) -> str:
        """Wait for the load and return the message for the caller.

        Raises:
            Unavailable: The server shuts down, and the load with it.
            Exception: The load's error, from `Lifecycle.load`.
        """
        try:
            return await asyncio.shield(self.task)
        except asyncio.CancelledError:
            if not self.task.cancelled():
                raise
            raise Unavailable(f"the server is shutting down; load {self.model_id} again later") from None

    async def steps(self) -> AsyncIterator[Progress]:
        """Yield the current progress and every later one, until the load ends."""
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
    """The loads that this process runs."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._jobs: dict[tuple[ModelId, str | None, Tuning], LoadJob] = {}

    def start(self, model_id: ModelId, revision: str | None = None, tuning: Tuning = AS_IT_IS) -> LoadJob:
        """Return the running load with the same arguments, or start one."""
        key = (model_id, revision, tuning)
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = LoadJob(self._lifecycle, model_id, revision, tuning)
            job.task.add_done_callback(lambda task: self._done(key, task))
        return job

    def running(self) -> list[LoadJob]:
        """Return the loads in progress."""
        return list(self._jobs.values())

    def end_conversions(self) -> None:
        """Cancel the loads that have not reached Triton yet, because they may take long."""
        for job in self._jobs.values():
            if job.progress.step in ("download", "convert", "verify"):
                job.task.cancel()

    async def close(self) -> None:
        """Cancel all loads; their converters are killed, and the repository stays intact."""
        tasks = [job.task for job in self._jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _done(self, key: tuple[ModelId, str | None, Tuning], task: asyncio.Task[str]) -> None:
        del self._jobs[key]
        # Callers get the error from `result`; this keeps asyncio from reporting it if no caller is left.
        if not task.cancelled():
            task.exception()
