"""Extends uvicorn's HTTP connection with deadlines and a strict reading of requests.

uvicorn waits for the rest of a request without a limit, and keeps the part of the head that has arrived.
Here the head and the body of a request each have a deadline. A timer checks each connection every
POLL_SECONDS, so the checks cost a request nothing. uvicorn's `--timeout-keep-alive` ends idle connections.

No part of a body is ever parsed as a request. A request for an upgrade is read as an ordinary request:
otherwise httptools would parse the bytes after its head as the next one. A head that a proxy in front could
read differently is refused (`request_heads.py`). A refusal is sent after the responses to earlier requests,
and closes the connection.

Used by `python app.py`, and by `uvicorn app:app --http gateway.server.http_protocol:HttpProtocol`.
"""

import asyncio
from collections.abc import Iterable
from functools import partial
from http import HTTPStatus

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.middleware.access import MAX_HEADER_BYTES, MAX_URL_BYTES
from gateway.middleware.request_context import FIELDS
from gateway.server.lingering_close import LastResponse, LingeringClose
from gateway.server.request_heads import Refused, Turn, check, has_body, without_upgrade

POLL_SECONDS = 20.0
"""Seconds between two checks of a connection. A client that reads no response data in between is cut off."""

HEAD_SECONDS = 20.0
"""Seconds for the head of a request, from its first byte."""

BODY_SECONDS = 120.0
"""Seconds for the body of a request, from the end of its head."""

FRAMING_BYTES = 1 << 20
"""Bytes that chunk extensions and trailers may add to the data of a chunked request."""
FRAMING_OF_A_BYTE = 16  # bytes of framing allowed for each byte of data, since chunks may be small


class HttpProtocol(HttpToolsProtocol):
    """An HTTP connection of one client."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the deadline checks and the idle timeout; clients open some connections in advance."""
        super().connection_made(transport)
        self._head_since: float | None = None
        self._body_since: float | None = None
        self._head_bytes = 0
        self._is_all_head = False
        self.url = b""
        self._going: tuple[RequestResponseCycle, int] | None = None
        self._poll = self.loop.call_later(POLL_SECONDS, self._check_deadlines)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )
        self._refused: Refused | None = None
        self._host = b""
        self._framing: int | None = None
        self._expects: RequestResponseCycle | None = None
        self._ending = LingeringClose(transport)
        self._for_responses = LastResponse(transport, self._ending, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the deadline checks as well."""
        self._poll.cancel()
        self._ending.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse and count received bytes; a head that grows too large is refused before it is complete."""
        if self._refused is not None or self._ending.has_begun:
            self._ending.discard(len(data))
            return
        self._unset_keepalive_if_required()
        if self._head_since is None and self._body_since is None and self._is_idle:
            # Empty lines before a request begin no message in the parser, but the deadline applies to them.
            self._head_since = self.loop.time()
        self._is_all_head = self._head_since is not None
        stopped: Exception | None = None
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as error:
            stopped = error
        if stopped is not None:
            # Outside the handler, where Python would replace the `__context__` of the next parser error.
            self._stopped(data, stopped)
        if self._is_all_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEADER_BYTES + MAX_URL_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the URL and headers are too large")
        if self._framing is not None:
            self._framing -= len(data)
            if self._framing < 0:
                self._refuse(HTTPStatus.BAD_REQUEST, "the body's chunks carry too much besides the body")

    def _stopped(self, data: bytes | memoryview, error: Exception | None) -> None:
        """Continue after the head of each request for an upgrade; refuse data that cannot be parsed."""
        while isinstance(error, httptools.HttpParserUpgrade):
            data = memoryview(data)[error.args[0] :]
            error = self._without_upgrade(data)
        if error is not None:
            refused = Refused.by(error)
            self._refuse(refused.status, str(refused))

    def _without_upgrade(self, data: memoryview) -> Exception | None:
        """Feed a new parser the head without its upgrade, and the data after it; return its error."""
        parser = self.parser
        head = without_upgrade(parser.get_method(), parser.get_http_version(), self.url, self.headers)
        self.parser = httptools.HttpRequestParser(self)
        # As in uvicorn, data after the last request of a connection is dropped.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        try:
            self.parser.feed_data(head)
            self.parser.feed_data(data)
        except (httptools.HttpParserUpgrade, httptools.HttpParserError) as error:
            return error
        return None

    def on_message_begin(self) -> None:
        """Start the deadline of a request's head."""
        if self._head_since is None:
            self._head_since = self.loop.time()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Check a complete head and start the request."""
        parser = self.parser
        if parser.should_upgrade():
            if parser.get_method() == b"CONNECT":
                raise Refused(HTTPStatus.NOT_IMPLEMENTED, "CONNECT is for proxies")
            return
        self._body_since = self.loop.time()
        self._head_since = None
        self._head_bytes = 0
        # The next head may begin at the end of these bytes.
        self._is_all_head = False
        headers = self.headers
        # The middleware reads this dictionary too.
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
        super().on_headers_complete()
        self.cycle.transport = self._for_responses  # type: ignore[assignment] # all that a response uses
        if self._framing is not None:
            # Trailers must not become headers: they would bypass a proxy that sets or removes headers.
            self.headers = []
        if self.expect_100_continue and self.cycle.keep_alive:
            # A response before the end of the body is the last one: the client may not send the rest.
            self._expects = self.cycle
            self.cycle.keep_alive = False

    def _check(self) -> None:
        """Check a head whose Host differs from the last one, or that has unusual parts."""
        version = self.parser.get_http_version()
        if check(version, self.url, self.headers):
            self._framing = FRAMING_BYTES
        self._host = dict(self.headers).get(b"host", b"") if version == "1.1" else b""
        if self.expect_100_continue:
            self.expect_100_continue = version == "1.1" and has_body(self.headers)

    def on_body(self, body: bytes) -> None:
        """Pass on a part of the body; its size raises the limit on framing."""
        super().on_body(body)
        if self._framing is not None:
            self._framing += len(body) * (1 + FRAMING_OF_A_BYTE)

    def on_message_complete(self) -> None:
        """Mark a request as complete."""
        if self.parser.should_upgrade():
            return
        self._body_since = None
        if self._expects is not None:
            self._expects.keep_alive = not self._expects.response_started
            self._expects = None
        super().on_message_complete()
        # uvicorn leaves this True if the response was complete before the body.
        self.cycle.more_body = False
        if self._framing is not None:
            self._framing = None
            if not self.parser.should_keep_alive():
                # A trailer asked to close the connection, and the parser accepts no more data.
                self.cycle.keep_alive = False
                if self.cycle.response_complete:
                    self._close()

    def shutdown(self) -> None:
        """Close the connection after the pending responses."""
        self._expects = None
        super().shutdown()

    def on_response_complete(self) -> None:
        """Restart the deadlines: a pipelined request was not read while the last response was sent."""
        if self._ending.has_begun:
            return
        super().on_response_complete()
        now = self.loop.time()
        self._head_since = self._head_since and now
        self._body_since = self._body_since and now

    def _check_deadlines(self) -> None:
        """End the connection if its client is too slow."""
        self._poll = self.loop.call_later(POLL_SECONDS, self._check_deadlines)
        is_idle = self._is_idle
        is_asked_for = is_idle or not self.cycle.waiting_for_100_continue
        if self._body_since and (self.flow.read_paused or not is_asked_for):
            # It is the server that does not read.
            self._body_since = self.loop.time()
        if self._stalls_answer():
            # The rest of the response is discarded.
            self.transport.abort()
        elif self._is_late(self._body_since, BODY_SECONDS) and is_idle:
            # The request was answered before its body was complete.
            self.transport.close()
        elif self._is_late(self._body_since, BODY_SECONDS) or (
            is_idle and self._is_late(self._head_since, HEAD_SECONDS)
        ):
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request came in too slowly")

    @property
    def _is_idle(self) -> bool:
        """True if no answer is due."""
        return self.cycle is None or self.cycle.response_complete

    def _is_late(self, since: float | None, seconds: float) -> bool:
        return since is not None and self.loop.time() - since > seconds

    def _stalls_answer(self) -> bool:
        """Return whether the client has read no response data since the last check."""
        unsent, before = self.transport.get_write_buffer_size(), self._going
        self._going = (self.cycle, unsent) if unsent and self.cycle is not None else None
        return before is not None and unsent > 0 and before[0] is self.cycle and unsent >= before[1]

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Stop reading; send the refusal after the responses to earlier requests, and close."""
        if self._for_responses.is_closing() or self._refused is not None:
            return
        self._refused = Refused(status, reason)
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (cycle.more_body and not self.pipeline):
            self._end(self._refused)
            return
        if cycle.more_body:
            # The refused request itself is waiting in the pipeline.
            self.pipeline.popleft()
        turn = Turn(partial(self._end, self._refused))
        self.pipeline.appendleft((turn, self.app))  # type: ignore[arg-type] # uvicorn calls only run_asgi

    def _end(self, refused: Refused) -> None:
        """Send the refusal, unless the refused request's response has begun, and close the connection."""
        cycle = self.cycle
        if cycle is not None and cycle.more_body:
            cycle.disconnected = True
            cycle.message_event.set()
        if cycle is None or not (cycle.more_body and cycle.response_started):
            # A response to HEAD has no body. The method is known once a part of the URL has arrived.
            to_head = self.url and self.parser.get_method() == b"HEAD"
            headers, body = refused.answer()
            self._write(refused.status, headers, b"" if to_head else body)
        self._close()

    def _close(self) -> None:
        """End the connection after its last response, which the client must still be able to read."""
        if not self._for_responses.is_closing():
            self.flow.resume_reading()
            self._ending.begin()

    def _write(self, status: HTTPStatus, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        """Write a complete response."""
        lines = (
            b"HTTP/1.1 %d %s" % (status, status.phrase.encode()),
            *(b"%s: %s" % one for one in (*self.server_state.default_headers, *headers)),
        )
        self.transport.write(b"\r\n".join((*lines, b"", body)))
