"""Creates the parts of the application at its start, and closes them at its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.allowed_hosts import AllowedHosts
from gateway.api.prometheus import PrometheusMetrics
from gateway.api.request_body import Bodies
from gateway.api.services import Services
from gateway.health.monitor import Monitor
from gateway.images.decoder import ImageDecoder
from gateway.images.fetcher import ImageFetcher
from gateway.inference.admission import Admission
from gateway.inference.image import ImageEmbedder
from gateway.inference.pairs import PairScorer
from gateway.inference.text import TextEmbedder
from gateway.models.capacity import Capacity
from gateway.models.catalog import Catalog
from gateway.models.lifecycle import Lifecycle
from gateway.models.load_jobs import LoadJobs
from gateway.models.locks import ModelLocks
from gateway.models.names import Names
from gateway.models.readiness import ReadinessGate
from gateway.models.reconciler import Reconciler
from gateway.models.rollout import Rollout
from gateway.models.status import Status
from gateway.server.shutdown import Shutdown
from gateway.settings import Settings
from gateway.telemetry.metrics import TRITON_RESTARTS
from gateway.telemetry.tracing import infer_call
from triton_models.client.channel import ChannelOptions
from triton_models.repository.repository import Repository
from triton_models.server.triton import Triton

CHANNELS = 2
"""Connections of one process to Triton. One carries over 10,000 requests a second, and each costs CPU."""

METRICS_PORT = 8002
"""Triton's default port for metrics."""


@asynccontextmanager
async def running(settings: Settings, shutdown: Shutdown) -> AsyncIterator[Services]:
    """Start all parts, each after the parts that it needs, and close them at the end."""
    repository = Repository(settings.model_repository)
    await asyncio.to_thread(repository.clean)
    async with Triton(
        repository.root,
        settings.response_cache,
        grpc_url=settings.triton_grpc_address,
        metrics_url=settings.triton_metrics_url or default_metrics_url(settings.triton_grpc_address),
        channels=CHANNELS,
        access=await asyncio.to_thread(triton_access, settings),
        on_restart=TRITON_RESTARTS.inc,
    ) as triton:
        names = Names(repository, settings.model_sources, settings.load_models)
        catalog = Catalog(repository, names)
        locks = ModelLocks(repository)
        rollout = Rollout(settings, repository, triton, locks)
        capacity = Capacity(settings, repository, triton, locks, rollout)
        lifecycle = Lifecycle(settings, repository, locks, rollout, capacity, names)
        jobs = LoadJobs(lifecycle)
        monitor = Monitor(repository, triton, compute_seconds=settings.request_timeout)
        readiness = ReadinessGate(repository, triton, monitor, names)
        reconciler = Reconciler(
            repository, triton, lifecycle, jobs, capacity, catalog, readiness, list(settings.load_models)
        )
        status = Status(repository, triton, jobs, reconciler, monitor, lambda: shutdown.begun)
        prometheus = PrometheusMetrics(status, triton)
        embedder, images, (fetcher, decoder) = embedders(settings, catalog, triton, readiness)
        scorer = pair_scorer(settings, catalog, triton, readiness)
        bodies = Bodies(settings.max_body_bytes, settings.request_timeout, settings.max_inputs)
        tasks = [asyncio.create_task(part.run()) for part in (reconciler, monitor)]
        try:
            with shutdown.handling(jobs.end_conversions):
                parts = (bodies, catalog, embedder, images, scorer, lifecycle, jobs, status, prometheus)
                yield Services(*parts)
        finally:
            if triton.is_owner:
                await shutdown.wait_for_others()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await jobs.close()
            await prometheus.close()
            await fetcher.close()
            decoder.close()
            embedder.close()
            scorer.close()


def embedders(
    settings: Settings, catalog: Catalog, triton: Triton, readiness: ReadinessGate
) -> tuple[TextEmbedder, ImageEmbedder, tuple[ImageFetcher, ImageDecoder]]:
    """Create the embedders of texts and images, which share one queue per model, and the image readers."""
    most, timeout = settings.max_inputs, settings.request_timeout
    admission = Admission(settings.max_queued_inputs, settings.max_queue_seconds)
    texts = TextEmbedder(
        catalog,
        triton,
        readiness,
        admission,
        max_inputs=most,
        timeout=timeout,
        max_characters=settings.max_text_characters,
    )
    fetcher = ImageFetcher(
        AllowedHosts(settings.image_hosts_allowed),
        max_bytes=settings.max_image_bytes,
        timeout=settings.image_fetch_timeout,
        concurrency=settings.image_fetch_concurrency,
    )
    decoder = ImageDecoder(max_bytes=settings.max_image_bytes, max_pixels=settings.max_image_pixels)
    images = ImageEmbedder(
        catalog, triton, readiness, admission, fetcher, decoder, max_inputs=most, timeout=timeout
    )
    return texts, images, (fetcher, decoder)


def pair_scorer(settings: Settings, catalog: Catalog, triton: Triton, readiness: ReadinessGate) -> PairScorer:
    """Create the scorer of pairs; its models have queues of their own."""
    return PairScorer(
        catalog,
        triton,
        readiness,
        Admission(settings.max_queued_inputs, settings.max_queue_seconds),
        max_inputs=settings.max_inputs,
        timeout=settings.request_timeout,
        max_characters=settings.max_text_characters,
    )


def triton_access(settings: Settings) -> ChannelOptions:
    """Return the TLS files and headers for the connection to the Triton at TRITON_GRPC_ADDRESS."""
    ca, key, certificate = (
        None if path is None else path.read_bytes()
        for path in (settings.triton_grpc_tls_ca, settings.triton_grpc_tls_key, settings.triton_grpc_tls_cert)
    )
    headers = tuple(header.partition("=") for header in settings.triton_grpc_headers)
    pairs = tuple((name, value) for name, _, value in headers)
    return ChannelOptions(ca, key, certificate, pairs, infer_call())


def default_metrics_url(grpc_url: str | None) -> str | None:
    """Return host:port of the metrics of a Triton with default ports; None without an address."""
    return None if grpc_url is None else f"{grpc_url.rpartition(':')[0]}:{METRICS_PORT}"
