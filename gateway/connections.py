"""HTTP connections that nobody can hold for ever: uvicorn's, with limits on what it waits for.

uvicorn waits without end for the rest of a request, and keeps what has come of its head. Here a connection is
looked at every STALLED_SECONDS, which costs a request nothing.

In an overload a request that has come whole may be refused here, see `shedding.py`.

Used by `python app.py`, and by `uvicorn app:app --http gateway.connections:Connection`.
"""

import asyncio
from collections.abc import Iterable
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.access import MAX_HEADER_BYTES, MAX_URL_BYTES
from gateway.shedding import STATE, Shedder

STALLED_SECONDS = 20.0
"""For the whole head of a request; for the next part of its body; for taking a part of the answer."""

IDLE_SECONDS = 75.0
"""For the first byte of a connection: clients open some ahead. It is closed without a word then."""

LEAST_BYTES = 10_000
"""Of a body that come in that time, unless it is the server that does not read on."""


class Connection(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._head_since: float | None = self.loop.time()
        self._head_bytes = 0
        self._fresh = True
        self._received = 0
        self._coming: RequestResponseCycle | None = None
        self._going: tuple[RequestResponseCycle, int] | None = None
        self._watch = self.loop.call_later(STALLED_SECONDS, self._look)
        self._shedder: Shedder | None = self.app_state.get(STATE)
        self._held: bytearray | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """End the watch too."""
        self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes; a head that has grown too large is refused before it is complete."""
        self._received += len(data)
        self._fresh = False
        super().data_received(data)
        if self._head_since is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES + MAX_URL_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the URL and headers are too large")

    def on_message_begin(self) -> None:
        """Begin to wait for the head of a request."""
        if self._head_since is None:
            self._head_since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there: make a request of it, unless it is one that may be refused as it is."""
        self._head_since = None
        self._head_bytes = 0
        shedder = self._shedder
        if shedder is not None and shedder.concerns(self.url, self.headers) and self._is_plain():
            self._held = bytearray()
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body has come."""
        if self._held is None:
            super().on_body(body)
        else:
            self._held += body

    def on_message_complete(self) -> None:
        """All of a request has come; one that was held is refused or let in."""
        if self._held is not None:
            assert self._shedder is not None
            refusal = self._shedder.refusal(self.url, self.headers, bytes(self._held))
            if refusal is not None:
                self._held = None
                self._write(HTTPStatus(refusal.status_code), refusal.raw_headers, bytes(refusal.body))
                self.on_response_complete()
                return
            self._let_in()
        super().on_message_complete()

    def _is_plain(self) -> bool:
        """Whether it is a POST, and all that there is to its answer is to write it."""
        return (
            self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.root_path
            and not (self.config.access_log and self.access_log)
            and not self.flow.write_paused
            and (self.cycle is None or self.cycle.response_complete)
        )

    def _let_in(self) -> None:
        """Make a request of what was held."""
        held, self._held = self._held, None
        super().on_headers_complete()
        if held:
            super().on_body(bytes(held))

    def _look(self) -> None:
        """End the connection if its client stalls."""
        self._watch = self.loop.call_later(STALLED_SECONDS, self._look)
        if self._held is not None and not self.transport.is_closing():
            # From here on it is looked at as any other.
            self._let_in()
        elif self._stalls_answer():
            # What waits for it is thrown away.
            self.transport.abort()
        elif self._fresh:
            if self.loop.time() - (self._head_since or 0.0) > IDLE_SECONDS:
                self.transport.close()
        elif self._stalls_head() or self._stalls_body():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request came in too slowly")

    def _stalls_answer(self) -> bool:
        """Whether none of an answer was taken since the last look."""
        unsent, before = self.transport.get_write_buffer_size(), self._going
        self._going = (self.cycle, unsent) if unsent and self.cycle is not None else None
        return before is not None and unsent > 0 and before[0] is self.cycle and unsent >= before[1]

    def _stalls_head(self) -> bool:
        """Whether a request has begun, or could have, and its head is not complete."""
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        now = self.loop.time()
        if self._head_since is None and self.timeout_keep_alive_task is None:
            # Bytes have come that are no beginning, such as empty lines: uvicorn waits for no more then.
            self._head_since = now
        return self._head_since is not None and now - self._head_since > STALLED_SECONDS

    def _stalls_body(self) -> bool:
        """Whether too little of a body has come since the last look, all of it read."""
        received, self._received = self._received, 0
        before, self._coming = self._coming, None
        cycle = self.cycle
        if cycle is None or cycle.response_complete or not cycle.more_body or cycle.body:
            return False
        self._coming = cycle
        return before is cycle and received < LEAST_BYTES

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answer, unless another answer has begun, and close."""
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = b'{"detail": "%s"}' % reason.encode()
            headers = (
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
                (b"connection", b"close"),
            )
            self._write(status, headers, body)
        self.transport.close()

    def _write(self, status: HTTPStatus, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer."""
        lines = (
            b"HTTP/1.1 %d %s" % (status, status.phrase.encode()),
            *(b"%s: %s" % one for one in (*self.server_state.default_headers, *headers)),
        )
        self.transport.write(b"\r\n".join((*lines, b"", body)))
