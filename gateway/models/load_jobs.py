"""Loads in progress: one task a model, watched by any number of callers.

A caller that goes away does not end the load; a second caller joins the first one's.
"""

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

from opentelemetry.context import get_current
from opentelemetry.trace import Span, Tracer

from gateway.errors import Unavailable
from gateway.model_id import Reference
from gateway.models.converter import OnProgress, Progress, log_progress
from gateway.models.lifecycle import Lifecycle
from gateway.telemetry.exporter import Exporting
from gateway.telemetry.tracing import recorded
from triton_models.contract.config import Tuning

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


class Steps:
    """Passes on the progress of a load; each step is a span, from its first word to the next one's."""

    def __init__(self, tracer: Tracer, on_progress: OnProgress) -> None:
        self._tracer = tracer
        self._on_progress = on_progress
        self._context = get_current()
        self._step: tuple[str, Span] | None = None

    def __call__(self, progress: Progress) -> None:
        """Note a step."""
        if self._step is None or self._step[0] != progress.step:
            self.end()
            self._step = progress.step, self._tracer.start_span(progress.step, context=self._context)
        self._on_progress(progress)

    def end(self) -> None:
        """End the last step."""
        if self._step is not None:
            self._step[1].end()
            self._step = None


def _load(load: Callable[..., Any], exporting: Exporting) -> Callable[..., Any]:
    """The load of a model, with a span for each step that its caller is told of."""
    signature = inspect.signature(load)

    @functools.wraps(load)
    async def in_steps(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the wrapped
        bound = signature.bind(*args, **kwargs)
        with recorded("load model"):
            steps = Steps(exporting.tracer, bound.arguments["on_progress"])
            bound.arguments["on_progress"] = steps
            try:
                return await load(*bound.args, **bound.kwargs)
            finally:
                steps.end()

    return in_steps
