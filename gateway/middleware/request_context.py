"""The layer that gives each request its id, its metrics and its log line.

Source of the interface: the ASGI specification, version 3.
"""

import logging
import random
import re
import time
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.api.error_responses import response_to, route_of
from gateway.telemetry.metrics import IN_FLIGHT, count_request
from triton_models.client.requests import REQUEST_ID

REQUEST_ID_HEADER = b"x-request-id"

FIELDS = "fields"
"""Key of the scope for headers by name; `server/http_protocol.py` sets it. Other servers may lose bodies."""

_CLOSE = (b"connection", b"close")

log = logging.getLogger(__name__)

_SANE = re.compile(rb"[\w.:/+=@~-]{1,128}", re.ASCII)


class RequestContext:
    """ASGI middleware around the application; only the tracing layer is outside of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500
        fields = scope.get(FIELDS)
        loses_body = False
        if fields is None:
            fields = scope[FIELDS] = dict(scope["headers"])
            loses_body = b"upgrade" in fields or scope["method"] == "CONNECT"
        request_id = id_of(fields)
        REQUEST_ID.set(request_id)
        added: tuple[tuple[bytes, bytes], ...] = ((REQUEST_ID_HEADER, request_id.encode()),)
        if loses_body:
            # The server then ignores whatever follows this request on the connection.
            added = (*added, _CLOSE)

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # A new list, because answers share their list of headers.
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        IN_FLIGHT.inc()
        try:
            if loses_body and _has_body(fields):
                refusal = HTTPException(400, "send no Upgrade header with a body, and no CONNECT")
                await response_to(refusal, scope)(scope, receive, send_and_note)
            else:
                await self._app(scope, receive, send_and_note)
        finally:
            IN_FLIGHT.dec()
            seconds, route = time.perf_counter() - start, route_of(scope)
            count_request(route, status, seconds)
            if log.isEnabledFor(logging.DEBUG):
                _log_request(scope["method"], route, status, seconds)


def id_of(fields: Mapping[bytes, bytes]) -> str:
    """Return the request id that the caller sent, if it is safe to log; otherwise a new one."""
    value = fields.get(REQUEST_ID_HEADER)
    if value is not None and _SANE.fullmatch(value):
        return str(value, "ascii")
    # The id only tells requests apart; it need not be unpredictable.
    return f"{random.getrandbits(64):016x}"


def _has_body(fields: Mapping[bytes, bytes]) -> bool:
    return fields.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in fields


def _log_request(method: str, route: str, status: int, seconds: float) -> None:
    fields = {"method": method, "route": route, "status": status, "duration_ms": round(seconds * 1000, 3)}
    log.debug("%s %s %d", method, route, status, extra={"fields": fields})
