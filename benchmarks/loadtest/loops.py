"""One load from this process to any server, in a closed or an open loop, and its figures."""

import random
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.loadtest.connection import ENDLESS, Connection
from benchmarks.loadtest.load import Load, OpenLoad
from benchmarks.loadtest.records import Read, Records, Take, unread

TIMEOUT_SECONDS = 120.0
MAX_WAITING = 1024
"""The connections of an open loop; a server with more waiting requests than this does not hold the rate."""

Address = tuple[str, int]


@dataclass(frozen=True)
class Outcome:
    """The result of one load; a `failure` makes it void."""

    records: Records
    rate: float
    """Requests per second."""
    failure: str | None = None

    @property
    def requests(self) -> int:
        """The number of requests that were answered."""
        return len(self.records.answered)

    @property
    def client_cpu_ms(self) -> float:
        """The CPU time of this process in ms per request."""
        return self.records.cpu_seconds * 1000 / max(1, self.requests)

    def percentile(self, percent: float) -> float:
        """Return a percentile of the latencies in ms."""
        if not self.requests:
            return float("nan")
        latencies = np.array(self.records.answered) - np.array(self.records.due)
        return float(np.percentile(latencies, percent)) * 1000


def given(requests: Iterable[bytes]) -> Take:
    """Return a `Take` that gives these requests one by one."""
    left = iter(requests)
    return lambda: next(left, None)


def closed_loop(
    address: Address,
    take: Take,
    connections: int,
    seconds: float,
    *,
    read: Read = unread,
    start: float | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Outcome:
    """Keep `connections` requests in flight until the time or the requests end.

    The rate is the sum of each connection's own rate over its own time. So the last requests, which run
    beside fewer and fewer others, are counted but do not raise the rate.
    """
    opened = [Connection(address) for _ in range(connections)]
    load = Load(opened, take, timeout, read, seconds)
    try:
        load.open()
    except OSError as error:
        load.close()
        return Outcome(Records(), 0.0, str(error) or repr(error))
    start = start or time.monotonic()
    records = load.run(start)
    rates = [(ENDLESS - one.quota) / (one.ended - start) for one in opened if one.quota < ENDLESS]
    load.close()
    return Outcome(records, sum(rates), _failure(records))


def open_loop(address: Address, take: Take, moments: "array[float]") -> Outcome:
    """Send a request at each of the moments, in seconds after the start, whatever the server does.

    A latency counts from the moment at which its request was due, so it includes a late start.
    """
    load = OpenLoad([Connection(address) for _ in range(MAX_WAITING)], take, TIMEOUT_SECONDS, moments, unread)
    start = time.monotonic()
    records = load.run(start)
    rate = len(records.answered) / (time.monotonic() - start)
    load.close()
    failure = _failure(records)
    if len(records.late) < len(moments):
        failure = failure or f"more than {MAX_WAITING} requests were waiting"
    return Outcome(records, rate, failure)


def poisson(rate: float, number: int, seed: int | str) -> "array[float]":
    """Draw `number` random moments, on average `rate` per second, in seconds after the start."""
    draw = random.Random(seed)
    moments = array("d")
    moment = 0.0
    for _ in range(number):
        moment += draw.expovariate(rate)
        moments.append(moment)
    return moments


def _failure(records: Records) -> str | None:
    if records.first_failure:
        return records.first_failure[1]
    return None if records.answered else "no request was answered"
