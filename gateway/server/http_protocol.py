"""HTTP connections that nobody can hold for ever: uvicorn's, with limits on what it waits for.

uvicorn waits without end for the rest of a request, and keeps what has come of its head. Here a connection is
looked at every STALLED_SECONDS, which costs a request nothing.

No body is taken for a request: an upgrade is ignored, where httptools takes what follows the head for the
next request; a head that a proxy in front could read differently is refused (`heads.py`). A refusal comes
after the answers to the requests before it, and closes the connection.

In an overload a request that has come whole may be refused here, see `shedding.py`.

Used by `python app.py`, and by `uvicorn app:app --http gateway.server.http_protocol:Connection`.
"""

import asyncio
from collections.abc import Iterable
from functools import partial
from http import HTTPStatus

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.middleware.access import MAX_HEADER_BYTES, MAX_URL_BYTES
from gateway.middleware.request_context import FIELDS
from gateway.server.request_heads import Refused, Turn, check, has_body, without_upgrade
from gateway.shedding import STATE, Shedder

STALLED_SECONDS = 20.0
"""For the whole head of a request; for the next part of its body; for taking a part of the answer."""

IDLE_SECONDS = 75.0
"""For the first byte of a connection: clients open some ahead. It is closed without a word then."""

LEAST_BYTES = 10_000
"""Of a body that come in that time, unless it is the server that does not read on."""

FRAMING_BYTES = 1 << 20
"""Of a request beside its chunks: extensions, trailers; what comes in one piece with the head counts too."""
FRAMING_OF_A_BYTE = 16  # small chunks


class Connection(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._head_since: float | None = self.loop.time()
        self._head_bytes = 0
        self.url = b""
        self._fresh = True
        self._received = 0
        self._coming: RequestResponseCycle | None = None
        self._going: tuple[RequestResponseCycle, int] | None = None
        self._watch = self.loop.call_later(STALLED_SECONDS, self._look)
        self._shedder: Shedder | None = self.app_state.get(STATE)
        self._held: bytearray | None = None
        self._refused: Refused | None = None
        self._host = b""
        self._framing: int | None = None
        self._expects: RequestResponseCycle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """End the watch too."""
        self._watch.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what comes; a head that has grown too large is refused before it is complete."""
        self._received += len(data)
        self._fresh = False
        if self._refused is not None:
            return
        self._unset_keepalive_if_required()
        stopped: Exception | None = None
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as error:
            stopped = error
        if stopped is not None:
            # Not in the handler: it would stand in for what the parser's error comes of.
            self._stopped(data, stopped)
        if self._head_since is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES + MAX_URL_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the URL and headers are too large")
        if self._framing is not None:
            self._framing -= len(data)
            if self._framing < 0:
                self._refuse(HTTPStatus.BAD_REQUEST, "the body's chunks carry too much besides the body")

    def _stopped(self, data: bytes | memoryview, error: Exception | None) -> None:
        """Go on after the head of each request that asks for an upgrade; refuse what cannot be parsed."""
        while isinstance(error, httptools.HttpParserUpgrade):
            data = memoryview(data)[error.args[0] :]
            error = self._without_upgrade(data)
        if error is not None:
            refused = Refused.by(error)
            self._refuse(refused.status, str(refused))

    def _without_upgrade(self, data: memoryview) -> Exception | None:
        """Give a new parser the head that the last one took for the end of HTTP, and what comes after it."""
        parser = self.parser
        head = without_upgrade(parser.get_method(), parser.get_http_version(), self.url, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        # As uvicorn: what comes after the last request of a connection is dropped.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        try:
            self.parser.feed_data(head)
            self.parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as error:
            return error
        return None

    def on_message_begin(self) -> None:
        """Begin to wait for the head of a request."""
        if self._head_since is None:
            self._head_since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is there: make a request of it, unless it is one that may be refused as it is."""
        parser = self.parser
        if parser.should_upgrade():
            if parser.get_method() == b"CONNECT":
                raise Refused(HTTPStatus.NOT_IMPLEMENTED, "CONNECT is for proxies")
            return
        self._head_since = None
        self._head_bytes = 0
        headers = self.headers
        # The layers look into it too.
        fields = self.scope[FIELDS] = dict(headers)  # type: ignore[literal-required]
        if (
            fields.get(b"host") != self._host
            or len(fields) != len(headers)
            or b"transfer-encoding" in fields
            or b"#" in self.url
            or self.expect_100_continue
            or not parser.should_keep_alive()
        ):
            self._check()
        shedder = self._shedder
        if shedder is not None and shedder.concerns(self.url, headers) and self._is_plain():
            self._held = bytearray()
            return
        super().on_headers_complete()
        if self._framing is not None:
            # Trailers are no headers: they would come by a proxy that sets or takes out headers.
            self.headers = []
        if self.expect_100_continue and self.cycle.keep_alive:
            # An answer before all of the body is the last one: nobody knows whether that body still comes.
            self._expects = self.cycle
            self.cycle.keep_alive = False

    def _check(self) -> None:
        """Look closely at a head that is not like the last one, or not like most."""
        version = self.parser.get_http_version()
        if check(version, self.url, self.headers):
            self._framing = FRAMING_BYTES
        self._host = dict(self.headers).get(b"host", b"") if version == "1.1" else b""
        if self.expect_100_continue:
            self.expect_100_continue = version == "1.1" and has_body(self.headers)

    def on_body(self, body: bytes) -> None:
        """A part of the body has come."""
        if self._held is None:
            super().on_body(body)
            if self._framing is not None:
                self._framing += len(body) * (1 + FRAMING_OF_A_BYTE)
        else:
            self._held += body

    def on_message_complete(self) -> None:
        """All of a request has come; one that was held is refused or let in."""
        if self.parser.should_upgrade():
            return
        if self._held is not None:
            assert self._shedder is not None
            refusal = self._shedder.refusal(self.url, self.headers, bytes(self._held))
            if refusal is not None:
                self._held = None
                self._write(HTTPStatus(refusal.status_code), refusal.raw_headers, bytes(refusal.body))
                self.on_response_complete()
                return
            self._let_in()
        if self._expects is not None:
            self._expects.keep_alive = not self._expects.response_started
            self._expects = None
        super().on_message_complete()
        # uvicorn leaves it where the answer was there before the end of the body.
        self.cycle.more_body = False
        if self._framing is not None:
            self._framing = None
            if not self.parser.should_keep_alive():
                # A trailer said so, and the parser takes nothing more.
                self.cycle.keep_alive = False
                if self.cycle.response_complete:
                    self.transport.close()

    def shutdown(self) -> None:
        """Close after the answers that are owed."""
        self._expects = None
        super().shutdown()

    def _is_plain(self) -> bool:
        """Whether it is a POST, and all that there is to its answer is to write it."""
        return (
            self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
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
        """Read no more; answer, after the requests before this one, and close."""
        if self.transport.is_closing() or self._refused is not None:
            return
        self._refused = Refused(status, reason)
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (cycle.more_body and not self.pipeline):
            self._end(self._refused)
            return
        if cycle.more_body:
            # It is what is refused, and has not begun.
            self.pipeline.popleft()
        turn = Turn(partial(self._end, self._refused))
        self.pipeline.appendleft((turn, self.app))  # type: ignore[arg-type] # only run_asgi is asked of it

    def _end(self, refused: Refused) -> None:
        """Answer, unless what is refused is the rest of a request whose answer has begun, and close."""
        cycle = self.cycle
        if cycle is not None and cycle.more_body:
            cycle.disconnected = True
            cycle.message_event.set()
        if cycle is None or not (cycle.more_body and cycle.response_started):
            # Who asked by HEAD looks for no body. The method is known once some of the URL is.
            to_head = self.url and self.parser.get_method() == b"HEAD"
            headers, body = refused.answer()
            self._write(refused.status, headers, b"" if to_head else body)
        self.transport.close()

    def _write(self, status: HTTPStatus, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Answer."""
        lines = (
            b"HTTP/1.1 %d %s" % (status, status.phrase.encode()),
            *(b"%s: %s" % one for one in (*self.server_state.default_headers, *headers)),
        )
        self.transport.write(b"\r\n".join((*lines, b"", body)))
