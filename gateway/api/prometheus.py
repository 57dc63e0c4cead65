"""The answer to a Prometheus scrape: the gateway's counters, its current gauges, and Triton's own metrics.

A scrape waits for Triton at most SECONDS; `embedding_triton_up` is 0 when Triton does not answer.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from typing import Any, TypeVar

import httpx
from prometheus_client.core import GaugeMetricFamily

from gateway.errors import GatewayError
from gateway.memory import resident_memory
from gateway.models.status import Status
from gateway.telemetry.metrics import exposition
from triton_models.client.errors import TritonError
from triton_models.server.private_directory import socket_path
from triton_models.server.triton import Triton

log = logging.getLogger(__name__)

SECONDS = 2.0
"""Seconds that each look-up of a scrape may take; Prometheus gives up after 10 seconds by default."""

Found = TypeVar("Found")


class PrometheusMetrics:
    """Builds the answer to a scrape, and holds the connections to Triton's own metrics."""

    def __init__(self, status: Status, triton: Triton) -> None:
        self._status = status
        self._triton = triton
        self._http = httpx.AsyncClient(trust_env=False)

    async def close(self) -> None:
        """Close the connections to Triton's metrics."""
        await self._http.aclose()

    async def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        health, models, own, memory = await asyncio.gather(
            _within(self._status.check_health()),
            _within(self._status.loaded_models()),
            _within(_fetch(self._http, self._triton.metrics_address)),
            asyncio.to_thread(resident_memory),
        )
        found = list(_gauges(health, models, own, memory))
        text = await asyncio.to_thread(exposition, found)
        return text + own if isinstance(own, bytes) else text


async def _within(looked_up: Awaitable[Found]) -> Found | Exception:
    try:
        async with asyncio.timeout(SECONDS):
            return await looked_up
    except (TimeoutError, GatewayError, TritonError, httpx.HTTPError, httpx.InvalidURL) as error:
        # A metric shows the failure at every scrape, so a warning each time would add nothing.
        log.debug("a look-up of this scrape failed: %r", error)
        return error


async def _fetch(http: httpx.AsyncClient, address: str | None) -> bytes:
    if address is None:
        raise httpx.InvalidURL("Triton has no address for metrics")
    if (path := socket_path(address)) is None:
        answer = await http.get(f"http://{address}/metrics")
    else:
        # A new connection each time costs almost nothing, and a restarted Triton has another socket.
        socket = httpx.AsyncHTTPTransport(uds=path, verify=False)
        async with httpx.AsyncClient(transport=socket) as own:
            answer = await own.get("http://triton/metrics")
    answer.raise_for_status()
    return answer.content


def _gauges(health: Any, models: Any, own: Any, memory: dict[str, int]) -> Iterator[GaugeMetricFamily]:  # noqa: ANN401 - or errors
    yield _flag("embedding_healthy", "Whether GET /health answers 200.", health)
    yield _flag("embedding_triton_up", "Whether Triton answers.", models)
    yield _flag("embedding_triton_metrics_up", "Whether Triton's own metrics, nv_*, are among these.", own)
    if isinstance(models, list):
        yield GaugeMetricFamily("embedding_models_loaded", "Models that may be asked.", len(models))
    family = GaugeMetricFamily(
        "embedding_resident_memory_bytes", "Resident memory of this host's processes.", labels=["process"]
    )
    for process, size in memory.items():
        family.add_metric([process], size)
    yield family


def _flag(name: str, meaning: str, found: object) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, 0 if isinstance(found, Exception) else 1)
