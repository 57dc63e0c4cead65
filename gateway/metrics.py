"""The front end's own Prometheus metrics, summed over its worker processes."""

import atexit
import functools
import multiprocessing
import os
import shutil
import tempfile
from pathlib import Path


def _share_between_workers() -> None:
    """Make the workers of one uvicorn write where each can read all; read at import of the library."""
    parent = multiprocessing.parent_process()
    if parent is None or "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        return
    prefix = "embedding-server-metrics-"
    for leftover in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        if not Path(f"/proc/{leftover.name.removeprefix(prefix)}").exists():
            shutil.rmtree(leftover, ignore_errors=True)
    shared = Path(tempfile.gettempdir()) / f"{prefix}{parent.pid}"
    shared.mkdir(mode=0o700, exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared)


_share_between_workers()

from prometheus_client import (  # noqa: E402 - it reads the variable set above when it is imported
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import (  # noqa: E402
    MultiProcessCollector,
    mark_process_dead,
)

REQUESTS = Counter(
    "embedding_http_requests_total", "Answered requests.", ["route", "status"], registry=REGISTRY
)
LATENCY = Histogram(
    "embedding_http_request_duration_seconds",
    "Time from a request's arrival to its answer.",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
IN_FLIGHT = Gauge(
    "embedding_http_requests_in_flight", "Requests not answered yet.", multiprocess_mode="livesum"
)
TEXTS = Counter("embedding_texts_total", "Texts embedded.", ["model"])
IMAGES = Counter("embedding_images_total", "Images embedded.", ["model"])
TOKENS = Counter("embedding_tokens_total", "Tokens of all texts sent to Triton.", ["model"])


def count_request(route: str, status: int, seconds: float) -> None:
    """Note an answered request."""
    requests, latency = _of_route(route, status)
    requests.inc()
    latency.observe(seconds)


# The library's own look-up of a labelled metric costs several times what counting does.
@functools.lru_cache(maxsize=1024)
def _of_route(route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(route, str(status)), LATENCY.labels(route)


@functools.lru_cache(maxsize=1024)
def texts_of(model: str) -> Counter:
    """Texts embedded with a model, by its name in Triton."""
    return TEXTS.labels(model)


@functools.lru_cache(maxsize=1024)
def images_of(model: str) -> Counter:
    """Images embedded with a model, by its name in Triton."""
    return IMAGES.labels(model)


@functools.lru_cache(maxsize=1024)
def tokens_of(model: str) -> Counter:
    """Tokens sent to a model, by its name in Triton."""
    return TOKENS.labels(model)


def exposition() -> bytes:
    """The metrics in Prometheus' text format, of all workers where there are several."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    # The library leaves these two without annotations.
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _forget_worker() -> None:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]


atexit.register(_forget_worker)
