"""Mixed load for long: does the memory of all the server's processes stay what it was?"""

import random
import time
from typing import Any

from benchmarks.compare import processes
from benchmarks.compare.servers import Dialect, Running
from benchmarks.compare.texts import Texts
from benchmarks.loadtest.raw_http import closed_loop

SETTLED_SECONDS = 60
CHUNK_SECONDS = 10
CONNECTIONS = 32
REQUESTS = 6_000
"""Prepared for one chunk; a chunk ends early with them."""


def soak(up: Running, texts: Texts, seconds: float) -> dict[str, Any]:
    """Resident bytes over time: after a minute (or a tenth of a short run), at the end, and their ratio."""
    order = random.Random(3)
    settled = min(SETTLED_SECONDS, seconds / 10)
    start = time.monotonic()
    series: list[tuple[float, dict[str, int]]] = []
    requests = 0
    while (passed := time.monotonic() - start) < seconds:
        chunk = [_request(up.server.dialect, texts, order) for _ in range(REQUESTS)]
        wanted = settled - passed if passed < settled else seconds - passed
        outcome = closed_loop(up.port, chunk, CONNECTIONS, max(1.0, min(CHUNK_SECONDS, wanted)))
        if outcome.failure:
            return {"growth": None, "failure": outcome.failure}
        requests += outcome.requests
        series.append((time.monotonic() - start, processes.resident_bytes(up.pid)))
    first = next(sizes for moment, sizes in series if moment >= settled)
    last = series[-1][1]
    return {
        "growth": sum(last.values()) / sum(first.values()),
        "seconds": seconds,
        "requests": requests,
        "after_a_minute": first,
        "at_the_end": last,
        "series": [(round(moment, 1), sum(sizes.values())) for moment, sizes in series],
    }


def _request(dialect: Dialect, texts: Texts, order: random.Random) -> bytes:
    """Mostly single texts, some lists, some passages, some repeated. Pairs of glosses do not run out."""
    kind = order.random()
    if kind < 0.1:
        return dialect.request([order.choice(texts.passages)])
    if kind < 0.2:
        return dialect.request([order.choice(texts.repeated)])
    count = order.randint(2, 64) if kind < 0.25 else 1
    return dialect.request(
        [f"{order.choice(texts.singles)}; {order.choice(texts.bulk)}" for _ in range(count)]
    )
