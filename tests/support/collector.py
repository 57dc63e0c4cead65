"""A small OTLP receiver over HTTP, like a collector's: accepts protobuf, and the JSON that Triton sends."""

import gzip
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class ReceivedSpan:
    """A received span.

    Attributes:
        service: `service.name` of the sender.
        trace: Id of the trace, in hexadecimal digits; `id` and `parent` likewise.
        kind: OTLP's number: 1 internal, 2 server, 3 client.
        failed: True if the status is an error.
    """

    service: str
    trace: str
    id: str
    parent: str
    name: str
    kind: int
    failed: bool
    attributes: dict[str, str]
    events: tuple[str, ...] = ()


@dataclass
class Collector:
    """Holds everything received so far."""

    port: int
    spans: list[ReceivedSpan] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self, found: Callable[[list[ReceivedSpan]], bool], seconds: float = 60) -> list[ReceivedSpan]:
        """Return all spans as soon as `found` is true of them; fail after `seconds`."""
        assert self.has(found, seconds), "\n".join(map(str, self.spans))
        return list(self.spans)

    def has(self, found: Callable[[list[ReceivedSpan]], bool], seconds: float) -> bool:
        """Return whether `found` becomes true of the spans within `seconds`."""
        deadline = time.monotonic() + seconds
        while not found(self.spans):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def ask_until(
        self, ask: Callable[[str, dict[str, str]], None], whole: Callable[[list[ReceivedSpan]], bool]
    ) -> tuple[str, str]:
        """Send requests until the spans of one trace are complete.

        Triton 2.51 loses its spans of one request in ten, so each attempt uses a new trace.

        Args:
            ask: Sends a request; its arguments are a new trace id and the headers.
            whole: Returns whether the spans of a trace are complete.

        Returns:
            Ids of the complete trace and of the caller's span in it.
        """

        def came(trace: str) -> bool:
            return self.has(lambda _: whole(self.of(trace)), seconds=5)

        for _ in range(12):
            trace, caller, headers = traceparent()
            ask(trace, headers)
            if came(trace):
                return trace, caller
        raise AssertionError("\n".join(map(str, self.spans)))

    def of(self, trace: str) -> list[ReceivedSpan]:
        return [span for span in self.spans if span.trace == trace]


def traceparent(*, sampled: bool = True) -> tuple[str, str, dict[str, str]]:
    """Return the id of a new trace, the id of the caller's span, and the header."""
    trace, span = os.urandom(16).hex(), os.urandom(8).hex()
    return trace, span, {"traceparent": f"00-{trace}-{span}-{'01' if sampled else '00'}"}


def named(spans: list[ReceivedSpan], name: str) -> list[ReceivedSpan]:
    return [span for span in spans if span.name == name]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    collector: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        read = from_json if self.headers["Content-Type"] == "application/json" else from_protobuf
        assert self.path == "/v1/traces"
        self.collector.bodies.append(body)
        self.collector.headers.append({name.lower(): value for name, value in self.headers.items()})
        self.collector.spans += read(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def from_protobuf(body: bytes) -> list[ReceivedSpan]:
    return [
        ReceivedSpan(
            service=next(a.value.string_value for a in each.resource.attributes if a.key == "service.name"),
            trace=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            name=span.name,
            kind=span.kind,
            failed=span.status.code == 2,
            attributes={a.key: str(a.value).strip() for a in span.attributes},
            events=tuple(event.name for event in span.events),
        )
        for each in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in each.scope_spans
        for span in scope.spans
    ]


def from_json(body: bytes) -> list[ReceivedSpan]:
    # OTLP's JSON writes ids in hexadecimal, which protobuf's own reader of JSON takes for base64.
    def attributes(part: dict[str, Any]) -> dict[str, str]:
        return {a["key"]: str(next(iter(a["value"].values()))) for a in part.get("attributes", [])}

    return [
        ReceivedSpan(
            service=attributes(each["resource"])["service.name"],
            trace=span["traceId"],
            id=span["spanId"],
            parent=span.get("parentSpanId", ""),
            name=span["name"],
            kind=span["kind"],
            failed=span.get("status", {}).get("code") == 2,
            attributes=attributes(span),
            events=tuple(event["name"] for event in span.get("events", [])),
        )
        for each in json.loads(body)["resourceSpans"]
        for scope in each["scopeSpans"]
        for span in scope["spans"]
    ]


@contextmanager
def collecting(collector: Collector) -> Iterator[Collector]:
    """Listen on the collector's port for as long as the context lasts."""
    handler = type("Bound", (Handler,), {"collector": collector})
    server = ThreadingHTTPServer(("127.0.0.1", collector.port), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
