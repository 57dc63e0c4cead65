"""Which steps become spans, and how spans are sent. Imported only while tracing is on (`tracing.py`).

The steps are wrapped from outside, once, at start: the code that does them holds nothing of it.
"""

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import grpc.aio
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gateway.images.decoder import ImageDecoder
from gateway.images.fetcher import ImageFetcher
from gateway.inference.admission import Lane
from gateway.models.lifecycle import Lifecycle
from gateway.models.load_jobs import _load
from gateway.telemetry.tracing import _spanned, recorded
from gateway.text.tokenizer import TextTokenizer
from triton_models.client import client

log = logging.getLogger(__name__)

STEPS: tuple[tuple[type, str, str], ...] = (
    (Lane, "wait", "queue"),
    (TextTokenizer, "encode", "tokenize"),
    (TextTokenizer, "encode_ids", "tokenize"),
    (ImageFetcher, "_fetch", "fetch image"),
    (ImageDecoder, "decode", "decode image"),
    (Lifecycle, "restore", "restore model"),
    (Lifecycle, "unload", "unload model"),
    (Lifecycle, "delete", "delete model"),
)
"""Methods, and the names of their spans."""

_W3C = TraceContextTextMapPropagator()
_FIELDS = frozenset(field.encode() for field in _W3C.fields)


class Exporting:
    """Spans on their way to the endpoint, in a thread of their own; when it takes none, they are dropped.

    url: of OTLP over HTTP. service: service.name of the spans.
    """

    def __init__(self, url: str, service: str) -> None:
        self._exporter = QuietExporter(OTLPSpanExporter(endpoint=url))
        self._processor = BatchSpanProcessor(self._exporter)
        # Sampling and limits are those of OTEL_TRACES_SAMPLER and its like, which the SDK reads.
        provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
        provider.add_span_processor(self._processor)
        self.tracer = provider.get_tracer("embedding-server")
        # From now on it would say the same of every batch; what matters is said once, below.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    def context_of(self, headers: Iterable[tuple[bytes, bytes]]) -> Context:
        """The trace that a request belongs to by its `traceparent`; an empty context without one."""
        carrier = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in headers if name in _FIELDS
        }
        return _W3C.extract(carrier, context=Context())

    def metadata(self, current: Span) -> tuple[tuple[str, str], ...]:
        """What a call to Triton carries so that Triton's spans join the trace.

        Nothing for a trace that is not sampled, since Triton does not look at that flag; nor while the
        endpoint takes no spans, since Triton would write a line into its log for each that it cannot send.
        """
        if not current.get_span_context().trace_flags.sampled or not self._exporter.answers:
            return ()
        carrier: dict[str, str] = {}
        _W3C.inject(carrier)
        return tuple(carrier.items())

    def close(self, seconds: float) -> None:
        """Send what is left, for so long at most. Blocks."""
        # It waits half a minute for an endpoint that does not answer; as a daemon it ends with the process.
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        ending.join(seconds if self._exporter.answers else 0.0)


class QuietExporter(SpanExporter):
    """Says once that the endpoint takes no spans, and once that it takes them again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.answers = True
        """Whether the endpoint took the last spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; after some seconds of trying they are dropped."""
        result = self._exporter.export(spans)
        answers = result is SpanExportResult.SUCCESS
        if answers and not self.answers:
            log.info("traces are taken again")
        elif self.answers and not answers:
            log.warning("traces are dropped: OTEL_EXPORTER_OTLP_ENDPOINT takes none; this is said once")
        self.answers = answers
        return result

    def shutdown(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()


def instrument(exporting: Exporting) -> None:
    """Wrap every step; for the life of the process."""
    for owner, method, name in STEPS:
        _replace(owner, method, functools.partial(_spanned, name))
    _replace(Lifecycle, "load", lambda load: _load(load, exporting))
    _replace(client, "uncancelled", lambda uncancelled: _call(uncancelled, exporting))


def _replace(owner: object, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    setattr(owner, name, wrap(getattr(owner, name)))


def _call(uncancelled: Callable[..., Any], exporting: Exporting) -> Callable[..., Any]:
    """An inference by Triton, with the trace's context in the call's metadata."""

    @functools.wraps(uncancelled)
    async def call(method: Any, request: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the wrapped
        attributes = {
            "rpc.system.name": "grpc",
            "rpc.method": "inference.GRPCInferenceService/ModelInfer",
            "triton.model_name": request.model_name,
            "triton.model_version": request.model_version,
        }
        name = "inference.GRPCInferenceService/ModelInfer"
        with recorded(name, kind=SpanKind.CLIENT, attributes=attributes) as current:
            context = exporting.metadata(current)

            # The headers that a Triton elsewhere asks for may be bound to the method.
            bound = getattr(method, "keywords", {}).get("metadata", ())

            def with_context(request: Any, **options: Any) -> Any:  # noqa: ANN401 - as gRPC's
                return method(request, metadata=(*bound, *context), **options)

            try:
                return await uncancelled(with_context if context else method, request, *args, **kwargs)
            except grpc.aio.AioRpcError as error:
                current.set_attribute("rpc.response.status_code", error.code().name)
                raise

    return call
