"""Exports spans, and records the spans of calls to Triton. Imported only while tracing is on."""

import logging
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import grpc.aio
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.telemetry.tracing import recorded
from triton_models.client.channel import InferCall
from triton_models.client.requests import shielded_call

log = logging.getLogger(__name__)

_W3C = TraceContextTextMapPropagator()
_FIELDS = frozenset(field.encode() for field in _W3C.fields)


class Exporting:
    """Sends spans to an endpoint from a separate thread, and drops spans that the endpoint does not accept.

    Args:
        url: URL of the endpoint, for OTLP over HTTP.
        service: `service.name` of the spans.
    """

    def __init__(self, url: str, service: str) -> None:
        self._exporter = QuietExporter(OTLPSpanExporter(endpoint=url))
        self._processor = BatchSpanProcessor(self._exporter)
        # The SDK reads sampling and limits from OTEL_TRACES_SAMPLER and similar variables.
        provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self.tracer = provider.get_tracer("embedding-server")
        # The SDK would log every batch that fails; QuietExporter logs the failure once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def context_of(self, headers: Iterable[tuple[bytes, bytes]]) -> Context:
        """Return the trace context of a request from its `traceparent`; empty without one."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name in _FIELDS
        }
        return _W3C.extract(carrier, context=Context())

    def metadata(self, current: Span) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call to Triton that makes Triton's spans join the trace.

        It is empty for a trace that is not sampled, since Triton ignores that flag. It is also empty while
        the endpoint accepts no spans, since Triton would log a line for each span that it cannot send.
        """
        if not current.get_span_context().trace_flags.sampled or not self._exporter.answers:
            return ()
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        return tuple(carrier.items())

    def close(self, seconds: float) -> None:
        """Send the remaining spans, for at most this many seconds. Blocks."""
        # The SDK waits half a minute for an endpoint that does not answer; a daemon ends with the process.
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        ending.join(seconds if self._exporter.answers else 0.0)


class QuietExporter(SpanExporter):
    """Logs once that the endpoint accepts no spans, and once that it accepts them again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.answers = True
        """True if the endpoint accepted the last spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans, or drop them after some seconds of retries."""
        result = self._exporter.export(spans)
        answers = result is SpanExportResult.SUCCESS
        if answers and not self.answers:
            log.info("traces are taken again")
        elif self.answers and not answers:
            log.warning("traces are dropped: OTEL_EXPORTER_OTLP_ENDPOINT takes none; this is said once")
        self.answers = answers
        return result

    def shutdown(self) -> None:
        """Abandon the spans that are being sent."""
        self._exporter.shutdown()


def recording_call(exporting: Exporting) -> InferCall:
    """Return a function that calls Triton as `shielded_call` does, and records a span of the call.

    Args:
        exporting: Provides the metadata that makes Triton's own spans join the trace.
    """

    async def call(method: Any, request: Any, *args: Any) -> Any:  # noqa: ANN401 - as `shielded_call`
        name = "inference.GRPCInferenceService/ModelInfer"
        attributes = {
            "rpc.system.name": "grpc",
            "rpc.method": name,
            "triton.model_name": request.model_name,
            "triton.model_version": request.model_version,
        }
        with recorded(name, kind=SpanKind.CLIENT, attributes=attributes) as current:
            context = exporting.metadata(current)

            # The headers that an external Triton requires may be bound to the method.
            bound = getattr(method, "keywords", {}).get("metadata", ())

            def with_context(request: Any, **options: Any) -> Any:  # noqa: ANN401 - as gRPC's
                return method(request, metadata=(*bound, *context), **options)

            try:
                return await shielded_call(with_context if context else method, request, *args)
            except grpc.aio.AioRpcError as error:
                current.set_attribute("rpc.response.status_code", error.code().name)
                raise

    return call
