"""Records a span of each request, and starts and ends tracing.

FastAPI could record these spans itself. They would contain the path and the query, and lack the route of
requests that the fast path answers.
"""

import asyncio
import os
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.settings import SettingsError
from gateway.telemetry import tracing
from gateway.telemetry.tracing import recorded
from triton_models.server.otel import TelemetryError, service_name, traces_url

if TYPE_CHECKING:
    from gateway.telemetry.exporter import Exporting

NOT_TRACED = frozenset({"/health", "/health/live", "/metrics", "/metrics/prometheus"})
"""Routes that machines poll every few seconds."""

METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
"""Methods that OpenTelemetry's conventions name; any other is recorded as _OTHER."""

FLUSH_SECONDS = 2.0
"""Seconds for which the end of the process waits until the last spans are sent."""


def with_tracing(app: ASGIApp) -> ASGIApp:
    """Wrap the application in the tracing middleware, if tracing is on.

    Raises:
        SettingsError: One of OpenTelemetry's variables cannot be used.
    """
    try:
        url = traces_url(os.environ)
    except TelemetryError as error:
        raise SettingsError(str(error)) from error
    if url is None:
        return app
    from gateway.telemetry.exporter import Exporting, recording_call

    exporting = Exporting(url, service_name(os.environ))
    tracing.start(exporting.tracer, recording_call(exporting))
    return TracingMiddleware(app, exporting)


class TracingMiddleware:
    """ASGI middleware that records a span of each request, and sends the last spans at the end."""

    def __init__(self, app: ASGIApp, exporting: "Exporting") -> None:
        self._app = app
        self._exporting = exporting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection event of the server."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._closing(send))
        elif scope["type"] != "http" or scope["path"] in NOT_TRACED:
            await self._app(scope, receive, send)
        else:
            await self._request(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        from opentelemetry.trace import SpanKind, StatusCode

        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        name = "HTTP" if method == "_OTHER" else method
        attributes = {
            "http.request.method": method,
            "url.scheme": scope.get("scheme", "http"),
            "network.protocol.version": scope["http_version"],
        }
        context = self._exporting.context_of(scope["headers"])
        with recorded(name, kind=SpanKind.SERVER, context=context, attributes=attributes) as current:

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    current.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        current.set_attribute("error.type", str(message["status"]))
                        current.set_status(StatusCode.ERROR)
                    for key, value in message.get("headers", ()):
                        if key.lower() == b"x-request-id":
                            # The same id is in the logs.
                            current.set_attribute(
                                "http.response.header.x-request-id", [value.decode("latin-1")]
                            )
                await send(message)

            try:
                await self._app(scope, receive, send_and_note)
            finally:
                # The router, or the fast path, wrote the route into the scope.
                route = getattr(scope.get("route"), "path", None)
                if route is not None:
                    current.update_name(f"{name} {route}")
                    current.set_attribute("http.route", route)

    def _closing(self, send: Send) -> Send:
        async def send_and_close(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                await asyncio.to_thread(self._exporting.close, FLUSH_SECONDS)
            await send(message)

        return send_and_close
