"""What a scrape of Prometheus gets: what was counted, what is so at the moment, and Triton's own metrics.

A scrape answers within SECONDS whatever becomes of Triton, and says by `embedding_triton_up` when it is gone.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
from prometheus_client.core import GaugeMetricFamily

from gateway.errors import GatewayError
from gateway.memory import resident_memory
from gateway.telemetry.metrics import exposition
from triton_models.client.errors import TritonError
from triton_models.server.private_directory import socket_path

if TYPE_CHECKING:
    from gateway.models.status import Status

log = logging.getLogger(__name__)

SECONDS = 2.0
"""How long a scrape waits for what it looks up; Prometheus gives up after 10 unless told otherwise."""

Found = TypeVar("Found")


async def scrape(status: "Status", http: httpx.AsyncClient, triton_metrics: str | None) -> bytes:
    """All metrics in Prometheus' text format.

    triton_metrics: where Triton's own are, as "host:port" or "unix:PATH"; None where that is not known.
    """
    health, models, own, memory = await asyncio.gather(
        _within(status.check_health()),
        _within(status.loaded_models()),
        _within(_fetch(http, triton_metrics)),
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
        # A metric says it at every scrape; a line in the log each time would say no more.
        log.debug("not known to this scrape: %r", error)
        return error


async def _fetch(http: httpx.AsyncClient, address: str | None) -> bytes:
    if address is None:
        raise httpx.InvalidURL("Triton's metrics are nowhere")
    if (path := socket_path(address)) is None:
        answer = await http.get(f"http://{address}/metrics")
    else:
        # A new connection each time: it costs next to nothing, and the next Triton has another socket.
        socket = httpx.AsyncHTTPTransport(uds=path, verify=False)
        async with httpx.AsyncClient(transport=socket) as own:
            answer = await own.get("http://triton/metrics")
    answer.raise_for_status()
    return answer.content


def _gauges(health: Any, models: Any, own: Any, memory: dict[str, int]) -> Iterator[GaugeMetricFamily]:  # noqa: ANN401 - or why not
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
