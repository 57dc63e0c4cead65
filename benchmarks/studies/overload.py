"""The effect of overload on throughput and latency: `python -m benchmarks.studies.overload`.

The study needs a running server. Each round measures the capacity in a closed loop, and then sends a multiple
of it in an open loop. The overload is compared with the capacities just before and after it, because a
machine's speed changes; the median over the rounds counts. Then single texts are measured alone and beside
bulk. Every text is new, so that no cache answers. The last line on standard output is one JSON object.
"""

import argparse
import itertools
import json
import math
import secrets
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import numpy as np

from benchmarks.loadtest.connection import Answer, Connection
from benchmarks.loadtest.load import OpenLoad
from benchmarks.loadtest.loops import Outcome, closed_loop
from benchmarks.loadtest.records import inference_ms
from benchmarks.loadtest.requests import Requests
from benchmarks.loadtest.server import Server
from benchmarks.loadtest.settings import BenchmarkError, Settings
from benchmarks.loadtest.workers import schedule

CAPACITY_CONNECTIONS = 64
OPEN_CONNECTIONS = 1000
"""The connections of the open loop: more than the server lets wait, so that requests are sent when due."""

START_SECONDS = 3.0

OTHERS = 1 << 30
"""The difference of two seeds for different texts of the same kind."""

FACTOR = 5.0
"""The multiple of the capacity that is sent."""

BULK = 2048
"""The texts of a bulk request."""

BULK_CONNECTIONS = 2
SINGLE_CONNECTIONS = 2


class Overload(OpenLoad):
    """An open loop in which a refusal is an answer; it counts statuses and times each refusal.

    If server and load generator share a machine, a refusal may wait until the generator gets a core. The
    generator knows an upper bound of that wait, because it should be awake when the next request is due.
    """

    def __init__(self, *args: Any) -> None:  # noqa: ANN401 - those of the base
        super().__init__(*args)
        self.statuses: Counter[int] = Counter()
        self.refusals_ms: list[float] = []
        self.server_ms: list[float] = []
        self._awake_by = math.inf

    def _turn(self) -> None:
        self._awake_by = max(time.monotonic(), self._next_due())
        super()._turn()

    def _note(self, connection: Connection, answer: Answer) -> None:
        self.statuses[answer.status] += 1
        if answer.status != 429:
            super()._note(connection, answer)
            return
        now = time.monotonic()
        took = now - connection.sent
        self.refusals_ms.append(took * 1000)
        self.server_ms.append(max(0.0, took - max(0.0, now - self._awake_by)) * 1000)
        self._release(connection, now)


def closed(settings: Settings, start: float | None = None, *, ahead: bool = False) -> Outcome:
    """Send a closed loop from the moment `start` or now, with requests built as needed or `ahead`.

    Raises:
        BenchmarkError: A request failed.
    """
    requests = Requests(settings, 0)
    if ahead:
        requests.build_ahead(0)
    assert settings.duration is not None
    outcome = closed_loop(
        settings.address,
        requests.take,
        settings.connections,
        settings.duration,
        read=inference_ms,
        start=start,
        timeout=settings.timeout,
    )
    if outcome.failure:
        raise BenchmarkError(f"{outcome.records.failed} requests failed: {outcome.failure}")
    return outcome


def capacity(settings: Settings) -> tuple[float, float]:
    """Return the requests per second of a closed loop and the 99th percentile of their latency in ms."""
    outcome = closed(settings, ahead=True)
    return outcome.rate, outcome.percentile(99)


def overload(settings: Settings) -> dict[str, Any]:
    """Measure an open loop at `settings.rate`."""
    requests = Requests(settings, 0)
    requests.build_ahead(0)
    connections = [Connection(settings.address) for _ in range(settings.connections)]
    load = Overload(connections, requests.take, settings.timeout, schedule(settings, 0))
    load.open()
    start = time.monotonic() + 0.1
    records = load.run(start)
    load.close()
    accepted = Outcome(records, 0.0)
    assert settings.duration is not None
    refused = np.array(load.refusals_ms or [0.0])
    return {
        "offered_per_second": settings.rate,
        "answered_per_second": len(records.answered) / (max(records.answered, default=start + 1) - start),
        "accepted_p50_ms": accepted.percentile(50),
        "accepted_p99_ms": accepted.percentile(99),
        "refusal_p50_ms": float(np.percentile(refused, 50)),
        "refusal_p99_ms": float(np.percentile(refused, 99)),
        "refusal_max_ms": float(refused.max()),
        "refusal_server_max_ms": max(load.server_ms, default=0.0),
        "statuses": dict(load.statuses),
        "failed": records.failed,
        "first_failure": records.first_failure and records.first_failure[1],
        "client_cores": records.cpu_seconds / settings.duration,
    }


def beside_bulk(singles: Settings, bulk: Settings) -> dict[str, float]:
    """Measure single texts alone, bulk alone, and both at once, each time with new texts."""
    alone = _at_once([singles])[0]
    bulk_alone = _at_once([bulk])[0]
    beside, with_singles = _at_once([replace(load, seed=load.seed + OTHERS) for load in (singles, bulk)])
    return {
        "single_alone_p50_ms": alone.percentile(50),
        "single_alone_p99_ms": alone.percentile(99),
        "single_beside_p50_ms": beside.percentile(50),
        "single_beside_p99_ms": beside.percentile(99),
        "bulk_alone_texts_per_second": bulk_alone.rate * bulk.texts_per_request,
        "bulk_beside_texts_per_second": with_singles.rate * bulk.texts_per_request,
    }


def _at_once(loads: list[Settings]) -> list[Outcome]:
    """Send closed loops at the same time, each in a process of its own.

    The requests are built as needed, because bulk requests are large and single ones few.
    """
    with ProcessPoolExecutor(len(loads), get_context("spawn")) as processes:
        # The processes need a moment to start.
        start = time.monotonic() + START_SECONDS
        return list(processes.map(closed, loads, [start] * len(loads)))


def table(found: dict[str, Any]) -> list[str]:
    """Write the table: the medians of the rounds, and their range in brackets."""

    def seen(name: str, digits: int, unit: str = "") -> str:
        values = [measured[name] for measured in found["rounds"]]
        least, median, most = (f"{value:.{digits}f}" for value in np.percentile(values, (0, 50, 100)))
        return f"{median}{unit} ({least} to {most})"

    rows = [
        ("capacity, requests/s", seen("capacity_per_second", 0)),
        ("p99 at capacity", seen("capacity_p99_ms", 0, " ms")),
        ("offered, requests/s", seen("offered_per_second", 0)),
        ("answered, requests/s", seen("answered_per_second", 0)),
        ("**throughput over capacity**", seen("throughput_ratio", 2)),
        ("p99 of accepted", seen("accepted_p99_ms", 0, " ms")),
        ("**p99 over that at capacity**", seen("p99_ratio", 2)),
        ("refusals, p99", seen("refusal_p99_ms", 1, " ms")),
        ("**slowest refusal**", seen("refusal_max_ms", 0, " ms")),
        ("the same without the load generator's own delay", seen("refusal_server_max_ms", 0, " ms")),
        ("cores taken by the load generator", seen("client_cores", 2)),
    ]
    if beside := found["beside_bulk"]:
        rows += [
            ("p99 of singles alone", f"{beside['single_alone_p99_ms']:.0f} ms"),
            ("p99 of singles beside bulk", f"{beside['single_beside_p99_ms']:.0f} ms"),
            ("bulk alone, texts/s", f"{beside['bulk_alone_texts_per_second']:.0f}"),
            ("bulk beside singles, texts/s", f"{beside['bulk_beside_texts_per_second']:.0f}"),
        ]
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)]


def measure(settings: Settings, seconds: float, rounds: int) -> dict[str, Any]:
    """Measure all figures.

    Raises:
        BenchmarkError: The server does not answer, or it refused a request within its capacity.
    """
    Server(settings).check()
    # In a longer measurement, changes in the machine's speed would enter the ratio.
    steady = replace(settings, connections=CAPACITY_CONNECTIONS, duration=min(20.0, seconds))
    capacity(replace(steady, duration=2.0))
    seeds = itertools.count(settings.seed + 1)
    before = capacity(replace(steady, seed=next(seeds)))
    found = []
    for number in range(rounds):
        flood = replace(settings, connections=OPEN_CONNECTIONS, duration=seconds, seed=next(seeds))
        flooded = overload(replace(flood, rate=before[0] * FACTOR))
        after = capacity(replace(steady, seed=next(seeds)))
        per_second, p99 = ((one + other) / 2 for one, other in zip(before, after, strict=True))
        flooded |= {
            "capacity_per_second": per_second,
            "capacity_p99_ms": p99,
            "throughput_ratio": flooded["answered_per_second"] / per_second,
            "p99_ratio": flooded["accepted_p99_ms"] / p99,
        }
        found.append(flooded)
        print(f"round {number + 1} of {rounds}: {json.dumps(flooded)}", file=sys.stderr)
        before = after
    single = replace(steady, connections=SINGLE_CONNECTIONS, seed=next(seeds))
    many = replace(steady, connections=BULK_CONNECTIONS, texts_per_request=BULK, seed=next(seeds))
    try:
        beside = beside_bulk(single, many)
    except BenchmarkError as error:
        # A server with a short queue (MAX_QUEUE_SECONDS) refuses so much bulk.
        print(f"without singles beside bulk: {error}", file=sys.stderr)
        beside = None
    return {"rounds": found, "beside_bulk": beside, "seconds": seconds}


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.overload", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--url", default=Settings.url)
    parser.add_argument("--texts", default=Settings.texts, help="glosses or passages")
    parser.add_argument("--seconds", type=float, default=60.0, help="duration of each overload")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    seed = secrets.randbelow(1 << 30)
    settings = Settings(url=options.url, texts=options.texts, route="/infer_text", seed=seed, warmup=0)
    try:
        found = measure(settings, options.seconds, options.rounds)
    except (BenchmarkError, OSError) as error:
        print(f"benchmarks.studies.overload: {error}", file=sys.stderr)
        return 1
    print("\n".join(table(found)))
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
