"""What every request passes on its way in: limit on the body, key, metrics. One layer, for speed.

Source of the interface: the ASGI specification, version 3.
"""

import hmac
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.errors import TooLarge, Unauthorized, error_response
from gateway.metrics import IN_FLIGHT, count_request

OPEN_ROUTES = frozenset({"/health", "/health/live"})
"""Answered without a key: a load balancer has none, and they tell nothing."""


class Edge:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, api_keys: tuple[str, ...]) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._api_keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of the server."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        IN_FLIGHT.inc()
        try:
            await self._guarded(scope, receive, send_and_note)
        finally:
            IN_FLIGHT.dec()
            # The router writes the route it chose into the scope; what matched none shares one label,
            # so that nobody can make labels without end.
            route = getattr(scope.get("route"), "path", "unmatched")
            count_request(route, status, time.perf_counter() - start)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if self._api_keys and scope["path"] not in OPEN_ROUTES and not self._has_key(headers):
            error = Unauthorized("send a valid key as 'Authorization: Bearer KEY'")
            await error_response(error, scope)(scope, receive, send)
            return
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max_body_bytes:
            await error_response(TooLarge(self._too_large()), scope)(scope, receive, send)
            return
        await self._app(scope, self._counted(receive) if b"transfer-encoding" in headers else receive, send)

    def _has_key(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer":
            return False
        # Every key is compared, in constant time: the answer's time tells nothing about any of them.
        matches = [hmac.compare_digest(key.strip(), known) for known in self._api_keys]
        return any(matches)

    def _counted(self, receive: Receive) -> Receive:
        """Counts a body that comes without a length."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                # FastAPI passes on no other exception out of the reading of a body.
                raise HTTPException(413, self._too_large())
            return message

        return counted

    def _too_large(self) -> str:
        return f"the body is larger than {self._max_body_bytes} bytes; send fewer or smaller inputs"
