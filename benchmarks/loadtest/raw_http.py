"""The load generator: raw HTTP/1.1 over asyncio, the same for every server.

Requests are built before the clock starts and answers are counted but not parsed, so that the client's
share of the machine is small and equal; what it costs is measured with every load. Knows nothing about
embeddings.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import uvloop

HOST = "127.0.0.1"
TIMEOUT_SECONDS = 120
MOST_CONNECTIONS = 1024
"""Of an open loop; a server that keeps more requests than this waiting does not hold the rate."""


@dataclass(frozen=True)
class Outcome:
    """What one load gave. Latencies are in milliseconds; `failure` voids all of it."""

    requests: int
    rate: float
    p50: float
    p99: float
    mean: float
    client_cpu_ms: float
    """CPU time of this process per request."""
    failure: str | None = None


@dataclass
class _Record:
    latencies: list[float] = field(default_factory=list)
    failure: str | None = None


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiting: asyncio.Future[bytes] | None = None
        self._parts: list[bytes] = []
        self._missing: int | None = None

    @classmethod
    async def open(cls, port: int) -> "_Connection":
        _, connection = await asyncio.get_running_loop().create_connection(cls, HOST, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses.
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        if self._missing is None:
            data = b"".join((*self._parts, data))
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._parts = [data]
                return
            length = _content_length(data[:end])
            if length is None:
                self._fail(ConnectionError("an answer without Content-Length"))
                return
            self._parts = [data]
            self._missing = end + 4 + length - len(data)
        else:
            self._parts.append(data)
            self._missing -= len(data)
        if self._missing <= 0 and self._waiting is not None:
            answer, self._parts, self._missing = self._parts, [], None
            if not self._waiting.done():
                self._waiting.set_result(answer[0] if len(answer) == 1 else b"".join(answer))

    async def exchange(self, request: bytes) -> bytes:
        """The whole answer, headers included.

        Raises:
            OSError: the connection ended, or the answer is none.
            TimeoutError: no answer in TIMEOUT_SECONDS.
        """
        loop = asyncio.get_running_loop()
        assert self._transport is not None
        self._waiting = loop.create_future()
        alarm = loop.call_later(TIMEOUT_SECONDS, self._fail, TimeoutError("no answer"))
        self._transport.write(request)
        try:
            return await self._waiting
        finally:
            alarm.cancel()
            self._waiting = None

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)


def post(route: str, body: bytes) -> bytes:
    """One request, ready to be written."""
    head = f"POST {route} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def closed_loop(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Outcome:
    """Keep `connections` requests under way until the time or the requests end.

    The rate is the sum over the connections of what each finished in its own time, so that the last
    requests, which run among fewer and fewer others, neither add to it nor are lost.
    """
    return _measured(lambda record: _closed(record, port, requests, connections, seconds))


def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Outcome:
    """Send at `rate` a second on the average, at random moments (Poisson), whatever the server does.

    A latency counts from the moment a request was due, so that a late start is the server's.
    """
    return _measured(lambda record: _open(record, port, requests, rate, seconds))


def exchange_once(port: int, request: bytes) -> bytes:
    """Body of the answer to one request.

    Raises:
        OSError: no answer, or another status than 200.
    """

    async def once() -> bytes:
        connection = await _Connection.open(port)
        try:
            answer = await connection.exchange(request)
        finally:
            connection.close()
        problem = _problem(answer)
        if problem:
            raise ConnectionError(problem)
        return answer.partition(b"\r\n\r\n")[2]

    return uvloop.run(once())


def _measured(run: Callable[[_Record], Awaitable[float]]) -> Outcome:
    record = _Record()
    cpu = time.process_time()

    async def guarded() -> float:
        try:
            return await run(record)
        except OSError as error:
            record.failure = record.failure or str(error) or repr(error)
            return 0.0

    rate = uvloop.run(guarded())
    cpu = time.process_time() - cpu
    times = np.array(record.latencies or [np.nan]) * 1000
    p50, p99 = np.percentile(times, [50, 99])
    count = len(record.latencies)
    failure = record.failure or (None if count else "no request was answered")
    mean, cpu_each = float(times.mean()), cpu * 1000 / max(1, count)
    return Outcome(count, rate, float(p50), float(p99), mean, cpu_each, failure)


async def _closed(
    record: _Record, port: int, requests: Sequence[bytes], connections: int, seconds: float
) -> float:
    opened = [await _Connection.open(port) for _ in range(min(connections, len(requests)))]
    queue = iter(requests)
    start = time.perf_counter()
    rates = await asyncio.gather(
        *(_send_in_turn(connection, queue, record, start, seconds) for connection in opened)
    )
    for connection in opened:
        connection.close()
    return sum(rates)


async def _send_in_turn(
    connection: _Connection, queue: Iterator[bytes], record: _Record, start: float, seconds: float
) -> float:
    """Requests a second that this connection finished."""
    done, now = 0, start
    while now - start < seconds and record.failure is None:
        request = next(queue, None)
        if request is None:
            break
        began = now
        await _exchange(connection, request, record)
        now = time.perf_counter()
        record.latencies.append(now - began)
        done += 1
    return done / (now - start) if done else 0.0


async def _open(record: _Record, port: int, requests: Sequence[bytes], rate: float, seconds: float) -> float:
    gaps = np.random.default_rng(7).exponential(1 / rate, min(len(requests), round(rate * seconds)))
    idle = deque([await _Connection.open(port) for _ in range(64)])
    opened = list(idle)
    tasks: set[asyncio.Task[None]] = set()

    async def send(request: bytes, due: float) -> None:
        if idle:
            connection = idle.pop()
        else:
            connection = await _Connection.open(port)
            opened.append(connection)
        await _exchange(connection, request, record)
        record.latencies.append(time.perf_counter() - due)
        idle.append(connection)

    start = time.perf_counter()
    for request, offset in zip(requests, np.cumsum(gaps).tolist(), strict=False):
        wait = start + offset - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        if len(tasks) >= MOST_CONNECTIONS:
            record.failure = f"more than {MOST_CONNECTIONS} requests were waiting"
        if record.failure:
            break
        task = asyncio.create_task(send(request, start + offset))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    seconds = time.perf_counter() - start
    for connection in opened:
        connection.close()
    return len(record.latencies) / seconds


async def _exchange(connection: _Connection, request: bytes, record: _Record) -> None:
    try:
        problem = _problem(await connection.exchange(request))
    except OSError as error:
        problem = str(error) or repr(error)
    if problem:
        record.failure = record.failure or problem


def _problem(answer: bytes) -> str | None:
    """The first line and some of the body where the status is not 200."""
    if answer[9:12] == b"200":
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    return f"{head.splitlines()[0].decode('latin-1')}: {body[:200].decode(errors='replace')}"


def _content_length(head: bytes) -> int | None:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return None
