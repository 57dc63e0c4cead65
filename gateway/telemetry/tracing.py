"""OpenTelemetry traces, off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

While they are off nothing is wrapped and the SDK is not imported. A span holds what an operator needs to
find the slow part: names of routes, steps and models, a status, an error's kind. No text, key, URL, path or
message.

FastAPI could make the span of a request by itself. It would hold the path and the query, and lack the route
of what `hot.py` answers.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import Span, SpanKind, Tracer

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind, Tracer


REQUEST_ID = "http.response.header.x-request-id"


_OFF: AbstractContextManager[None] = nullcontext()
_tracer: "Tracer | None" = None


def span(name: str, **attributes: str | int) -> "AbstractContextManager[Span | None]":
    """A step of the request that is under way; nothing while tracing is off.

    An exception that leaves it marks it as failed, with its class and no message.
    """
    return _OFF if _tracer is None else recorded(name, attributes=attributes)


@contextmanager
def recorded(name: str, *, kind: "SpanKind | None" = None, **options: Any) -> "Iterator[Span]":  # noqa: ANN401 - the SDK's
    """As `span`, while tracing is on; options: of the SDK's `start_as_current_span`."""
    from opentelemetry.trace import SpanKind, StatusCode

    assert _tracer is not None
    with _tracer.start_as_current_span(
        name,
        kind=kind or SpanKind.INTERNAL,
        # The message and the traceback of an exception may hold a text or a path.
        record_exception=False,
        set_status_on_exception=False,
        **options,
    ) as current:
        try:
            yield current
        except BaseException as error:
            current.set_attribute("error.type", type(error).__qualname__)
            current.set_status(StatusCode.ERROR)
            raise


def is_on() -> bool:
    """Whether `traced` found traces on."""
    return _tracer is not None


def _spanned(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def in_span(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of any method
        with span(name):
            return function(*args, **kwargs)

    @functools.wraps(function)
    async def awaited_in_span(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
        with span(name):
            return await function(*args, **kwargs)

    return awaited_in_span if inspect.iscoroutinefunction(function) else in_span
