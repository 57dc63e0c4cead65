"""The load generator of all benchmarks: it sends requests over connections and records the answers.

In a closed loop, a connection sends its next request when the last one is answered. In an open loop, requests
are due at moments that do not depend on the answers, and the wait for a free connection counts as latency.
"""

import select
import selectors
import time
from array import array
from collections import deque
from collections.abc import Callable

from benchmarks.loadtest.connection import Answer, AnswerError, Connection, Stale
from benchmarks.loadtest.records import Read, Records, Take, inference_ms

SCRATCH_BYTES = 256 << 10
LONGEST_WAIT = 0.25
"""The seconds between two checks for timeouts while nothing happens."""

_READ = selectors.EVENT_READ
_BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE


class Load:
    """The closed loop, and the base of the open one."""

    def __init__(
        self,
        connections: list[Connection],
        take: Take,
        timeout: float,
        read: Read = inference_ms,
        seconds: float = float("inf"),
    ) -> None:
        """Make a load that sends no new request later than `seconds` after its start."""
        self.records = Records()
        self.busy = 0
        self.connections = connections
        self._take = take
        self._read_answer = read
        self._timeout = timeout
        self._scratch = bytearray(SCRATCH_BYTES)
        # A load is made before its connections are opened, so that this number is low enough for `select`.
        self._selector = selectors.DefaultSelector()
        self._duration = seconds
        self._deadline = float("inf")
        self._next_look = 0.0
        self._failed: list[Connection] = []

    def open(self) -> None:
        """Open all connections.

        Raises:
            OSError: The server cannot be reached.
        """
        for connection in self.connections:
            connection.open()

    def close(self) -> None:
        """Close all connections."""
        for connection in self.connections:
            connection.close()

    def run(self, start: float, show: Callable[[int], None] = lambda _: None) -> Records:
        """Send all requests, beginning at the moment `start`; `show` gets the number of answers so far."""
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
        """Wait for events and handle them."""
        now = time.monotonic()
        wait = 0.0 if self._failed else min(self._next_due() - now, LONGEST_WAIT)
        if 0 < wait < LONGEST_WAIT:
            # The selector waits in whole milliseconds, while `select` on the selector itself is exact.
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

    def _start(self, connection: Connection, request: bytes, due: float, now: float) -> None:
        """Send a request over a free connection."""
        connection.due = due
        connection.sent = now
        connection.retried = False
        self.busy += 1
        self._send(connection, request)

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
            self._disconnect(connection)  # the answer belongs to no request
            return
        if answer.status != 200:
            said = bytes(answer.buffer[answer.start : min(answer.end, answer.start + 300)])
            self._fail(connection, f"HTTP {answer.status}: {said.decode(errors='replace')}")
            return
        try:
            took = self._read_answer(answer)
        except AnswerError as error:
            self._fail(connection, error)
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
        """Send a request once more after the server closed the idle connection that it was sent on.

        A server may close a kept connection at any time (RFC 9110, section 9.2.2), and an embedding changes
        nothing, so sending it twice does no harm.
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
        # The next turn frees the connection. If it sent again from here, a server that is gone would cause
        # endless recursion.
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

    # The open loop overrides the methods below.

    def _begin(self, start: float) -> None:
        self._deadline = start + self._duration
        for connection in self.connections:
            self._freed(connection, start)

    def _unfinished(self) -> bool:
        return self.busy > 0

    def _next_due(self) -> float:
        return float("inf")

    def _send_due(self, now: float) -> None:
        """Do nothing: in a closed loop only an answer makes a request due."""

    def _freed(self, connection: Connection, now: float) -> None:
        if connection.quota > 0 and now < self._deadline and (request := self._take()) is not None:
            connection.quota -= 1
            self._start(connection, request, now, now)
        else:
            connection.ended = now


class OpenLoad(Load):
    """The open loop.

    `schedule` has the moments of the requests in seconds after the start; `take` must have one for each.
    """

    def __init__(
        self,
        connections: list[Connection],
        take: Take,
        timeout: float,
        schedule: "array[float]",
        read: Read = inference_ms,
    ) -> None:
        super().__init__(connections, take, timeout, read)
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
                self._start_next(self._idle.pop(), due, now)
            else:
                self._waiting.append(due)

    def _freed(self, connection: Connection, now: float) -> None:
        if self._waiting:
            self._start_next(connection, self._waiting.popleft(), now)
        else:
            self._idle.append(connection)

    def _start_next(self, connection: Connection, due: float, now: float) -> None:
        request = self._take()
        assert request is not None
        self._start(connection, request, due, now)
