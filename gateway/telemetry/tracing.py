"""OpenTelemetry traces, off unless OTEL_EXPORTER_OTLP_ENDPOINT is set.

While they are off, no function is wrapped and the SDK is not imported. A span contains names of routes, steps
and models, a status and the type of an error: enough to find the slow part. It contains no text, key, URL,
path or message.

`traced` marks a function as a step. `gateway/middleware/tracing.py` records the span of a request, and
`gateway/telemetry/exporter.py` sends the spans.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

from triton_models.client.channel import InferCall
from triton_models.client.requests import shielded_call
from triton_models.server.otel import TelemetryError, traces_url

if TYPE_CHECKING:
    from opentelemetry.trace import Span, SpanKind, Tracer

_OFF: AbstractContextManager[None] = nullcontext()
_tracer: "Tracer | None" = None
_infer_call: InferCall = shielded_call

Function = TypeVar("Function", bound=Callable[..., Any])


def start(tracer: "Tracer", infer_call: InferCall) -> None:
    """Record spans from now on, for the life of the process.

    Args:
        tracer: Creates the spans.
        infer_call: Calls Triton for an inference, with a span and with the trace's context as metadata.
    """
    global _tracer, _infer_call
    _tracer, _infer_call = tracer, infer_call


def infer_call() -> InferCall:
    """Return the function that calls Triton for an inference; while tracing is on, it records a span."""
    return _infer_call


def span(name: str, **attributes: str | int) -> "AbstractContextManager[Span | None]":
    """Record a step of the current request; do nothing while tracing is off.

    An exception that leaves the block marks the span as failed, with the exception's class and no message.
    """
    return _OFF if _tracer is None else recorded(name, attributes=attributes)


@contextmanager
def recorded(name: str, *, kind: "SpanKind | None" = None, **options: Any) -> "Iterator[Span]":  # noqa: ANN401 - the SDK's
    """Record a span as `span` does; tracing must be on. `options` go to the SDK's `start_as_current_span`."""
    from opentelemetry.trace import SpanKind, StatusCode

    assert _tracer is not None
    with _tracer.start_as_current_span(
        name,
        kind=kind or SpanKind.INTERNAL,
        # The message and the traceback of an exception may contain user text or a path.
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


def traced(name: str) -> Callable[[Function], Function]:
    """Return a decorator that records each call of a function or coroutine function as a span of this name.

    The function is returned unchanged if the environment does not turn tracing on, so it costs nothing then.
    """

    def decorate(function: Function) -> Function:
        if not _are_asked_for():
            return function

        @functools.wraps(function)
        def in_span(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - of any function
            with span(name):
                return function(*args, **kwargs)

        @functools.wraps(function)
        async def awaited_in_span(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as above
            with span(name):
                return await function(*args, **kwargs)

        wrapped: Any = awaited_in_span if inspect.iscoroutinefunction(function) else in_span
        return wrapped  # type: ignore[no-any-return]

    return decorate


class StepSpans:
    """Spans of successive steps: each one ends when the next begins. Does nothing while tracing is off."""

    def __init__(self) -> None:
        self._name = ""
        self._current: Span | None = None
        self._context = None
        if _tracer is not None:
            from opentelemetry.context import get_current

            self._context = get_current()

    def begin(self, name: str) -> None:
        """End the last step and begin one of this name, unless the last step has the same name."""
        if _tracer is None or name == self._name:
            return
        self.end()
        self._name, self._current = name, _tracer.start_span(name, context=self._context)

    def end(self) -> None:
        """End the last step."""
        if self._current is not None:
            self._current.end()
            self._name, self._current = "", None


def _are_asked_for() -> bool:
    try:
        return traces_url(os.environ) is not None
    except TelemetryError:
        # The application reports the error at its start, in one line.
        return True
