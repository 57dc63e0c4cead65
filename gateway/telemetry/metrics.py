"""The gateway's own Prometheus metrics, summed over its worker processes."""

import atexit
import functools
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar


def _share_between_workers() -> None:
    """Give the workers of one uvicorn a shared directory for metrics, before the library is imported."""
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
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily  # noqa: E402
from prometheus_client.multiprocess import (  # noqa: E402
    MultiProcessCollector,
    mark_process_dead,
)
from prometheus_client.registry import Collector  # noqa: E402

# Otherwise each metric gets a second series with its creation time, which the text format does not need.
disable_created_metrics()  # type: ignore[no-untyped-call]

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
TOKENIZING = Gauge(
    "embedding_tokenizing_threads", "Threads that tokenise long texts now.", multiprocess_mode="livesum"
)
TEXTS = Counter("embedding_texts_total", "Texts embedded.", ["model"])
IMAGES = Counter("embedding_images_total", "Images embedded.", ["model"])
QUEUE_ROWS = Gauge(
    "embedding_queue_rows",
    "Inputs admitted and not in Triton yet.",
    ["model", "lane"],
    multiprocess_mode="livesum",
)
QUEUE_SECONDS = Histogram(
    "embedding_queue_duration_seconds",
    "Time that inputs waited in the gateway, of those that waited.",
    ["model", "lane"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
REJECTED = Counter(
    "embedding_rejected_requests_total", "Requests that ended in the gateway's queue.", ["model", "reason"]
)
TOKENS = Counter("embedding_tokens_total", "Tokens of all texts sent to Triton.", ["model"])

CONVERSIONS = Histogram(
    "embedding_conversion_duration_seconds",
    "Time that conversions of models took, by how they ended.",
    ["result"],
    buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
LOADS = Histogram(
    "embedding_model_load_duration_seconds",
    "Time that loads of models into Triton took, with the check through it, by how they ended.",
    ["result"],
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300),
)
TRITON_RESTARTS = Counter(
    "embedding_triton_restarts_total", "Times that the embedded Triton came up again after it had ended."
)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Timed = Callable[Arguments, Awaitable[Result]]

for _durations in (CONVERSIONS, LOADS):
    for _result in ("success", "failure"):
        # Create the series at the start, so that the first failure shows as an increase.
        _durations.labels(_result)


def timed(durations: Histogram) -> Callable[[Timed[Arguments, Result]], Timed[Arguments, Result]]:
    """Return a decorator that records each call's duration, and whether it ends with an exception."""

    def decorate(function: Timed[Arguments, Result]) -> Timed[Arguments, Result]:
        @functools.wraps(function)
        async def noted(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            start, result = time.monotonic(), "failure"
            try:
                answer = await function(*args, **kwargs)
                result = "success"
                return answer
            finally:
                durations.labels(result).observe(time.monotonic() - start)

        return noted

    return decorate


def count_request(route: str, status: int, seconds: float) -> None:
    """Count an answered request and record its duration in seconds."""
    requests, latency = _of_route(route, status)
    requests.inc()
    latency.observe(seconds)


# Looking up a labelled metric in the library costs several times as much as counting.
@functools.lru_cache(maxsize=1024)
def _of_route(route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(route, str(status)), LATENCY.labels(route)


# The counters of one model, by its name in Triton.
texts_of = functools.lru_cache(maxsize=1024)(TEXTS.labels)
images_of = functools.lru_cache(maxsize=1024)(IMAGES.labels)
tokens_of = functools.lru_cache(maxsize=1024)(TOKENS.labels)


@dataclass(frozen=True)
class Queue:
    """The metrics of one lane of a model's queue (`gateway/inference/admission.py`).

    Attributes:
        rows: Inputs admitted and not in Triton yet.
        seconds: Time that inputs waited.
        refused: Requests refused with 429.
        expired: Requests answered with 504 because their deadline passed.
        dropped: Requests whose client disconnected.
    """

    rows: Gauge
    seconds: Histogram
    refused: Counter
    expired: Counter
    dropped: Counter

    @classmethod
    def of(cls, model: str, lane: str) -> "Queue":
        """Return the metrics of a lane of a model, which is named as in Triton."""
        reasons = (REJECTED.labels(model, reason) for reason in ("overloaded", "deadline", "disconnected"))
        return cls(QUEUE_ROWS.labels(model, lane), QUEUE_SECONDS.labels(model, lane), *reasons)


def exposition(now: Iterable[GaugeMetricFamily] = ()) -> bytes:
    """Return the metrics of all workers in Prometheus' text format.

    Args:
        now: Metrics that are looked up at this moment instead of counted.
    """
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        # The library leaves these two without annotations.
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    looked_up = CollectorRegistry()
    looked_up.register(_Found(now))
    return generate_latest(registry) + generate_latest(looked_up)


class _Found(Collector):
    """Collector of metrics that were looked up before."""

    def __init__(self, families: Iterable[GaugeMetricFamily]) -> None:
        self._families = families

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._families


def _forget_worker() -> None:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        mark_process_dead(os.getpid())  # type: ignore[no-untyped-call]


atexit.register(_forget_worker)
