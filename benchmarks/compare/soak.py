"""A long mixed load, to see whether the memory of all the server's processes stays the same."""

import random
import time
from collections.abc import Iterator
from typing import Any

import psutil

from benchmarks.compare.inputs import Inputs
from benchmarks.compare.servers import Running
from benchmarks.loadtest.loops import closed_loop

SETTLED_SECONDS = 60
CHUNK_SECONDS = 10
CONNECTIONS = 32
SEED = 3
PASSAGES, REPEATED = 4000, 500


def soak(up: Running, seconds: float) -> dict[str, Any]:
    """Measure resident bytes over time, after a minute (or a tenth of a short run), and at the end."""
    settled = min(SETTLED_SECONDS, seconds / 10)
    requests = _requests(up)
    start = time.monotonic()
    series: list[tuple[float, dict[str, int]]] = []
    answered = 0
    while (passed := time.monotonic() - start) < seconds:
        wanted = settled - passed if passed < settled else seconds - passed
        duration = max(1.0, min(CHUNK_SECONDS, wanted))
        outcome = closed_loop(up.address, lambda: next(requests), CONNECTIONS, duration)
        if outcome.failure:
            return {"growth": None, "failure": outcome.failure}
        answered += outcome.requests
        series.append((time.monotonic() - start, _resident_bytes(up.pid)))
    first = next(sizes for moment, sizes in series if moment >= settled)
    last = series[-1][1]
    return {
        "growth": sum(last.values()) / sum(first.values()),
        "seconds": seconds,
        "requests": answered,
        "after_a_minute": first,
        "at_the_end": last,
        "series": [(round(moment, 1), sum(sizes.values())) for moment, sizes in series],
    }


def _requests(up: Running) -> Iterator[bytes]:
    """Yield requests forever: mostly single texts, some lists, some passages, some repeated texts."""
    order, inputs = random.Random(SEED), Inputs(SEED)
    passages, repeated = inputs.take("passages", PASSAGES), inputs.take("definitions", REPEATED)
    while True:
        kind = order.random()
        if kind < 0.2:
            texts = [order.choice(passages if kind < 0.1 else repeated)]
        else:
            made = inputs.take("definitions", 2 * (order.randint(2, 64) if kind < 0.25 else 1))
            texts = [f"{one}; {other}" for one, other in zip(made[::2], made[1::2], strict=True)]
        yield up.request("definitions", texts)


def _resident_bytes(pid: int) -> dict[str, int]:
    """Return the resident memory of a process and each of its descendants, by name and process id."""
    process = psutil.Process(pid)
    sizes = {}
    for one in (process, *process.children(recursive=True)):
        try:
            sizes[f"{one.name()}-{one.pid}"] = int(one.memory_info().rss)
        except psutil.NoSuchProcess:
            continue
    return sizes
