"""Sends requests over connections and notes what happens: the hot loop of the load test.

Closed loop: each connection sends its next request when the last one is answered. Open loop: requests are due
at moments that do not depend on the answers; one that finds no free connection waits, and that wait counts.
"""

import select
import selectors
import time
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.loadtest.connection import Answer, AnswerError, Connection, Stale
from benchmarks.loadtest.requests import Requests

SCRATCH_BYTES = 256 << 10
LONGEST_WAIT = 0.25
"""Seconds between two looks at the clock while nothing happens."""

_READ = selectors.EVENT_READ
_BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE
_TIME_KEY = b'"processingTimeMs":'


@dataclass
class Records:
    """What one process saw. Moments are of `time.monotonic`, in seconds, one per answered request."""

    due: "array[float]" = field(default_factory=lambda: array("d"))
    answered: "array[float]" = field(default_factory=lambda: array("d"))
    inference_ms: "array[float]" = field(default_factory=lambda: array("d"))
    late: "array[float]" = field(default_factory=lambda: array("d"))
    """Seconds by which the client itself sent a request late although a connection was free."""
    failed: int = 0
    first_failure: tuple[float, str] | None = None
    bytes_out: int = 0
    bytes_in: int = 0
    reconnects: int = 0
    cpu_seconds: float = 0.0


def inference_ms(answer: Answer) -> float | None:
    """`processingTimeMs` without parsing the vectors; it stands at the end. None: not there."""
    at = answer.buffer.rfind(_TIME_KEY, answer.start, answer.end)
    if at < 0:
        return None
    at += len(_TIME_KEY)
    end = answer.buffer.find(b",", at, answer.end)
    try:
        return float(answer.buffer[at : end if end >= 0 else answer.end].rstrip(b"}\n\r "))
    except ValueError:
        return None


class Load:
    """The closed loop; what the open one shares with it."""

    def __init__(self, connections: list[Connection], requests: Requests, timeout: float) -> None:
        self.records = Records()
        self.busy = 0
        self.connections = connections
        self._requests = requests
        self._timeout = timeout
        self._scratch = bytearray(SCRATCH_BYTES)
        # Made before any socket, so that its number is below what `select` takes.
        self._selector = selectors.DefaultSelector()
        self._duration = self._deadline = float("inf")
        self._next_look = 0.0
        self._failed: list[Connection] = []

    def run(self, start: float, show: Callable[[int], None]) -> Records:
        """Send everything from the moment `start` on; `show` is told how many were answered."""
        for connection in self.connections:
            if connection.socket is not None:
                self._selector.register(connection.socket, _READ, connection)
        while (wait := start - time.monotonic()) > 0:
            time.sleep(wait)
        cpu = time.process_time()
        self._begin(start)
        while self._unfinished():
            self._turn()
            show(len(self.records.answered))
        self.records.cpu_seconds = time.process_time() - cpu
        self._selector.close()
        return self.records

    def _turn(self) -> None:
        """Wait for something to happen, and handle it."""
        now = time.monotonic()
        wait = 0.0 if self._failed else min(self._next_due() - now, LONGEST_WAIT)
        if 0 < wait < LONGEST_WAIT:
            # The selector waits in whole milliseconds; `select` on the selector itself is exact.
            select.select([self._selector], [], [], wait)
            wait = 0
        for key, events in self._selector.select(max(0, wait)):
            connection: Connection = key.data
            if events & selectors.EVENT_WRITE:
                self._continue_sending(connection)
            if events & _READ and connection.socket is key.fileobj:
                self._read(connection)
        self._send_due(time.monotonic())
        failed, self._failed = self._failed, []
        for connection in failed:
            self._release(connection, time.monotonic())
        if now >= self._next_look:
            self._next_look = now + LONGEST_WAIT
            self._look_for_timeouts(now)

    def _start(self, connection: Connection, due: float, now: float) -> None:
        """Send the next request over a free connection."""
        connection.due = due
        connection.sent = now
        connection.retried = False
        self.busy += 1
        self._send(connection, self._requests.take())

    def _send(self, connection: Connection, request: bytes) -> None:
        try:
            if connection.socket is None:
                connection.request = request
                self._selector.register(connection.open(), _READ, connection)
            if not connection.send(request):
                assert connection.socket is not None
                self._selector.modify(connection.socket, _BOTH, connection)
        except (BrokenPipeError, ConnectionResetError) as error:
            self._retry_or_fail(connection, error)
        except OSError as error:
            self._fail(connection, error)

    def _continue_sending(self, connection: Connection) -> None:
        try:
            if connection.send_rest():
                assert connection.socket is not None
                self._selector.modify(connection.socket, _READ, connection)
        except OSError as error:
            self._fail(connection, error)

    def _read(self, connection: Connection) -> None:
        try:
            answer = connection.receive(self._scratch)
        except Stale as error:
            self._retry_or_fail(connection, error)
        except (AnswerError, OSError) as error:
            self._fail(connection, error)
        else:
            if answer is not None:
                self._note(connection, answer)

    def _note(self, connection: Connection, answer: Answer) -> None:
        now = time.monotonic()
        if connection.request is None:
            self._disconnect(connection)  # an answer that nobody asked for
            return
        if answer.status != 200:
            said = bytes(answer.buffer[answer.start : min(answer.end, answer.start + 300)])
            self._fail(connection, f"HTTP {answer.status}: {said.decode(errors='replace')}")
            return
        took = inference_ms(answer)
        if took is None:
            self._fail(connection, "the answer has no processingTimeMs")
            return
        records = self.records
        records.due.append(connection.due)
        records.answered.append(now)
        records.inference_ms.append(took)
        records.bytes_out += len(connection.request)
        records.bytes_in += answer.end
        if not answer.keep_alive:
            self._disconnect(connection)
        self._release(connection, now)

    def _retry_or_fail(self, connection: Connection, error: Exception) -> None:
        """A server may close a kept connection at any time; what crosses that is sent once more.

        RFC 9110, section 9.2.2: an embedding changes nothing, so sending it twice does no harm.
        """
        self._disconnect(connection)
        if connection.request is None:
            return
        if connection.retried:
            self._fail(connection, error)
            return
        connection.retried = True
        self.records.reconnects += 1
        self._send(connection, connection.request)

    def _fail(self, connection: Connection, reason: Exception | str) -> None:
        text = reason if isinstance(reason, str) else str(reason) or type(reason).__name__
        self._disconnect(connection)
        now = time.monotonic()
        if connection.request is None:
            return  # an idle connection broke; nothing was lost
        self.records.failed += 1
        if self.records.first_failure is None:
            self.records.first_failure = (now, text)
        # Freed by the next turn: were it sent on from here, a server that is gone would nest without end.
        self._failed.append(connection)

    def _disconnect(self, connection: Connection) -> None:
        if connection.socket is not None:
            self._selector.unregister(connection.socket)
        connection.close()

    def _release(self, connection: Connection, now: float) -> None:
        connection.request = None
        self.busy -= 1
        self._freed(connection, now)

    def _look_for_timeouts(self, now: float) -> None:
        for connection in self.connections:
            if (
                connection.request is not None
                and now - connection.sent > self._timeout
                and connection not in self._failed
            ):
                self._fail(connection, f"no answer within {self._timeout:g} s")

    def stop_after(self, seconds: float) -> None:
        """Send nothing new so long after the start."""
        self._duration = seconds

    # What the open loop does otherwise.

    def _begin(self, start: float) -> None:
        self._deadline = start + self._duration
        for connection in self.connections:
            self._freed(connection, start)

    def _unfinished(self) -> bool:
        return self.busy > 0

    def _next_due(self) -> float:
        return float("inf")

    def _send_due(self, now: float) -> None:
        """Nothing is due but by an answer."""

    def _freed(self, connection: Connection, now: float) -> None:
        if connection.quota > 0 and now < self._deadline:
            connection.quota -= 1
            self._start(connection, now, now)


class OpenLoad(Load):
    """The open loop; `schedule` holds the moments, in seconds after the start."""

    def __init__(
        self, connections: list[Connection], requests: Requests, timeout: float, schedule: "array[float]"
    ) -> None:
        super().__init__(connections, requests, timeout)
        self._schedule = schedule
        self._next = 0
        self._start_time = 0.0
        self._idle: list[Connection] = []
        self._waiting: deque[float] = deque()

    def _begin(self, start: float) -> None:
        self._start_time = start
        self._idle = list(self.connections)

    def _unfinished(self) -> bool:
        return self.busy > 0 or bool(self._waiting) or self._next < len(self._schedule)

    def _next_due(self) -> float:
        if self._next == len(self._schedule):
            return float("inf")
        return self._start_time + self._schedule[self._next]

    def _send_due(self, now: float) -> None:
        while self._next_due() <= now:
            due = self._next_due()
            self._next += 1
            if self._idle:
                self.records.late.append(now - due)
                self._start(self._idle.pop(), due, now)
            else:
                self._waiting.append(due)

    def _freed(self, connection: Connection, now: float) -> None:
        if self._waiting:
            self._start(connection, self._waiting.popleft(), now)
        else:
            self._idle.append(connection)
