"""What the application is built of: made at start, closed at the end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from gateway.catalog import Catalog
from gateway.inference import TextEmbedder
from gateway.jobs import LoadJobs
from gateway.lifecycle import Lifecycle
from gateway.restore import Restorer
from gateway.settings import Settings
from gateway.status import Status
from triton_models.repository import Repository
from triton_models.supervisor import Triton

log = logging.getLogger(__name__)


CHANNELS = 2
"""Connections to Triton of one process: one carries over 10,000 requests a second, and each costs CPU."""

METRICS_PORT = 8002
"""Where Triton shows its metrics unless told otherwise."""


@dataclass(frozen=True)
class Services:
    """The parts that routes call."""

    embedder: TextEmbedder
    lifecycle: Lifecycle
    jobs: LoadJobs
    status: Status


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Services]:
    """Everything started, in the order of need; ended in the reverse order."""
    repository = Repository(settings.model_repository)
    await asyncio.to_thread(repository.clean)
    async with Triton(
        repository.root,
        settings.response_cache,
        grpc_url=settings.triton_grpc_url,
        metrics_url=settings.triton_metrics_url or default_metrics_url(settings.triton_grpc_url),
        channels=CHANNELS,
    ) as triton:
        catalog = Catalog(repository)
        lifecycle = Lifecycle(settings, repository, triton)
        jobs = LoadJobs(lifecycle)
        restorer = Restorer(repository, triton, lifecycle, jobs, settings.load_models)
        status = Status(repository, triton, jobs, restorer)
        embedder = TextEmbedder(
            catalog, triton, repository, max_inputs=settings.max_inputs, timeout=settings.request_timeout
        )
        restoring = asyncio.create_task(restorer.run())
        try:
            yield Services(embedder, lifecycle, jobs, status)
        finally:
            restoring.cancel()
            with suppress(asyncio.CancelledError):
                await restoring
            await jobs.close()
            await status.close()


def default_metrics_url(grpc_url: str | None) -> str | None:
    """host:port of the metrics of a Triton with its ports unchanged."""
    return None if grpc_url is None else f"{grpc_url.rpartition(':')[0]}:{METRICS_PORT}"
