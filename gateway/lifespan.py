"""What the application is built of: made at start, closed at the end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.allowed_hosts import AllowedHosts
from gateway.api.request_body import Bodies
from gateway.api.services import Services
from gateway.health.monitor import Monitor
from gateway.images.decoder import ImageDecoder
from gateway.images.fetcher import ImageFetcher
from gateway.inference.admission import Admission
from gateway.inference.image import ImageEmbedder
from gateway.inference.text import TextEmbedder
from gateway.models.capacity import Capacity
from gateway.models.catalog import Catalog
from gateway.models.lifecycle import Lifecycle
from gateway.models.load_jobs import LoadJobs
from gateway.models.locks import Changes
from gateway.models.readiness import Verified
from gateway.models.reconciler import Restorer
from gateway.models.rollout import Serving
from gateway.models.status import Status
from gateway.server.shutdown import Shutdown
from gateway.settings import Settings
from gateway.telemetry.metrics import TRITON_RESTARTS
from triton_models.client.channel import Access
from triton_models.repository.repository import Repository
from triton_models.server.supervisor import Triton

log = logging.getLogger(__name__)


CHANNELS = 2
"""Connections to Triton of one process: one carries over 10,000 requests a second, and each costs CPU."""

METRICS_PORT = 8002
"""Where Triton shows its metrics unless told otherwise."""


@asynccontextmanager
async def running(settings: Settings, shutdown: Shutdown) -> AsyncIterator[Services]:
    """Everything started, in the order of need; ended in the reverse order."""
    repository = Repository(settings.model_repository)
    await asyncio.to_thread(repository.clean)
    async with Triton(
        repository.root,
        settings.response_cache,
        grpc_url=settings.triton_grpc_url,
        metrics_url=settings.triton_metrics_url or default_metrics_url(settings.triton_grpc_url),
        channels=CHANNELS,
        access=await asyncio.to_thread(triton_access, settings),
        on_restart=TRITON_RESTARTS.inc,
    ) as triton:
        catalog = Catalog(repository)
        changes = Changes(repository)
        serving = Serving(settings, repository, triton, changes)
        capacity = Capacity(settings, repository, triton, changes, serving)
        lifecycle = Lifecycle(settings, repository, changes, serving, capacity)
        jobs = LoadJobs(lifecycle)
        monitor = Monitor(repository, triton, compute_seconds=settings.request_timeout)
        verified = Verified(repository, triton, monitor)
        restorer = Restorer(
            repository, triton, lifecycle, jobs, capacity, catalog, verified, settings.load_models
        )
        status = Status(repository, triton, jobs, restorer, monitor, shutdown)
        embedder, images, (fetcher, decoder) = embedders(settings, catalog, triton, verified)
        bodies = Bodies(settings.max_body_bytes, settings.request_timeout, settings.max_inputs)
        tasks = [asyncio.create_task(part.run()) for part in (restorer, monitor)]
        try:
            with shutdown.handling(jobs.end_conversions):
                yield Services(bodies, catalog, embedder, images, lifecycle, jobs, status)
        finally:
            if triton.is_owner:
                await shutdown.wait_for_others()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await jobs.close()
            await status.close()
            await fetcher.close()
            decoder.close()
            embedder.close()


def embedders(
    settings: Settings, catalog: Catalog, triton: Triton, verified: Verified
) -> tuple[TextEmbedder, ImageEmbedder, tuple[ImageFetcher, ImageDecoder]]:
    """What embeds texts and images, and what gets at these; they share one queue for each model in Triton."""
    most, timeout = settings.max_inputs, settings.request_timeout
    admission = Admission(settings.max_queued_rows)
    texts = TextEmbedder(
        catalog,
        triton,
        verified,
        admission,
        max_inputs=most,
        timeout=timeout,
        max_characters=settings.max_text_characters,
    )
    readers = image_readers(settings)
    images = ImageEmbedder(catalog, triton, verified, admission, *readers, max_inputs=most, timeout=timeout)
    return texts, images, readers


def image_readers(settings: Settings) -> tuple[ImageFetcher, ImageDecoder]:
    """What gets at images, within the operator's limits."""
    fetcher = ImageFetcher(
        AllowedHosts(settings.image_hosts_allowed),
        max_bytes=settings.max_image_bytes,
        timeout=settings.image_fetch_timeout,
        concurrency=settings.image_fetch_concurrency,
    )
    return fetcher, ImageDecoder(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)


def triton_access(settings: Settings) -> Access:
    """What the Triton at TRITON_GRPC_URL asks for."""
    ca, key, certificate = (
        None if path is None else path.read_bytes()
        for path in (settings.triton_grpc_tls_ca, settings.triton_grpc_tls_key, settings.triton_grpc_tls_cert)
    )
    headers = tuple(header.partition("=") for header in settings.triton_grpc_headers)
    return Access(ca, key, certificate, tuple((name, value) for name, _, value in headers))


def default_metrics_url(grpc_url: str | None) -> str | None:
    """host:port of the metrics of a Triton with its ports unchanged."""
    return None if grpc_url is None else f"{grpc_url.rpartition(':')[0]}:{METRICS_PORT}"
