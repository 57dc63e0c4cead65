"""What every request passes first and every answer last: its id, its metrics, its line in the log.

Source of the interface: the ASGI specification, version 3.
"""

import logging
import random
import re
import time
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import route_of
from gateway.metrics import IN_FLIGHT, count_request
from triton_models.calls import REQUEST_ID

REQUEST_ID_HEADER = b"x-request-id"

log = logging.getLogger(__name__)

_SANE = re.compile(rb"[\w.:/+=@~-]{1,128}", re.ASCII)


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500
        request_id = id_of(scope["headers"])
        REQUEST_ID.set(request_id)
        header = (REQUEST_ID_HEADER, request_id.encode())

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # A new list: answers share theirs.
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        IN_FLIGHT.inc()
        try:
            await self._app(scope, receive, send_and_note)
        finally:
            IN_FLIGHT.dec()
            seconds, route = time.perf_counter() - start, route_of(scope)
            count_request(route, status, seconds)
            if log.isEnabledFor(logging.DEBUG):
                _log_request(scope["method"], route, status, seconds)


def id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The id that the caller gave its request, where it can stand in a log, else a new one."""
    for name, value in headers:
        if name == REQUEST_ID_HEADER and _SANE.fullmatch(value):
            return str(value, "ascii")
    # To tell requests apart, not to keep anything secret.
    return f"{random.getrandbits(64):016x}"


def _log_request(method: str, route: str, status: int, seconds: float) -> None:
    fields = {"method": method, "route": route, "status": status, "duration_ms": round(seconds * 1000, 3)}
    log.debug("%s %s %d", method, route, status, extra={"fields": fields})
