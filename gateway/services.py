"""What the application is built of: made at start, closed at the end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from gateway.addresses import AllowedHosts
from gateway.bodies import Bodies
from gateway.catalog import Catalog
from gateway.decoding import ImageDecoder
from gateway.fetching import ImageFetcher
from gateway.image_inference import ImageEmbedder
from gateway.inference import TextEmbedder
from gateway.jobs import LoadJobs
from gateway.lifecycle import Lifecycle
from gateway.restore import Restorer
from gateway.settings import Settings
from gateway.status import Status
from gateway.verified import Verified
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

    bodies: Bodies
    catalog: Catalog
    embedder: TextEmbedder
    image_embedder: ImageEmbedder
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
        verified = Verified(repository, triton)
        most, timeout = settings.max_inputs, settings.request_timeout
        embedder = TextEmbedder(catalog, triton, verified, max_inputs=most, timeout=timeout)
        fetcher, decoder = image_readers(settings)
        images = ImageEmbedder(catalog, triton, verified, fetcher, decoder, max_inputs=most, timeout=timeout)
        bodies = Bodies(settings.max_body_bytes, timeout)
        restoring = asyncio.create_task(restorer.run())
        try:
            yield Services(bodies, catalog, embedder, images, lifecycle, jobs, status)
        finally:
            restoring.cancel()
            with suppress(asyncio.CancelledError):
                await restoring
            await jobs.close()
            await status.close()
            await fetcher.close()
            decoder.close()


def image_readers(settings: Settings) -> tuple[ImageFetcher, ImageDecoder]:
    """What gets at images, within the operator's limits."""
    fetcher = ImageFetcher(
        AllowedHosts(settings.image_hosts_allowed),
        max_bytes=settings.max_image_bytes,
        timeout=settings.image_fetch_timeout,
        concurrency=settings.image_fetch_concurrency,
    )
    return fetcher, ImageDecoder(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)


def default_metrics_url(grpc_url: str | None) -> str | None:
    """host:port of the metrics of a Triton with its ports unchanged."""
    return None if grpc_url is None else f"{grpc_url.rpartition(':')[0]}:{METRICS_PORT}"
