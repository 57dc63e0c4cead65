"""The records of a load, and how an answer is read into them."""

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.loadtest.connection import Answer, AnswerError

_TIME_KEY = b'"processingTimeMs":'

Take = Callable[[], bytes | None]
"""Returns the next request, ready to be sent, or None when there are no more."""

Read = Callable[[Answer], float]
"""Reads the server's own time in ms from an answer of status 200; raises AnswerError if there is none."""


@dataclass
class Records:
    """The results of one process.

    `due` and `answered` are moments of `time.monotonic` in seconds, one for each answered request.
    """

    due: "array[float]" = field(default_factory=lambda: array("d"))
    answered: "array[float]" = field(default_factory=lambda: array("d"))
    inference_ms: "array[float]" = field(default_factory=lambda: array("d"))
    late: "array[float]" = field(default_factory=lambda: array("d"))
    """The delays in seconds with which the client itself sent requests although a connection was free."""
    failed: int = 0
    first_failure: tuple[float, str] | None = None
    bytes_out: int = 0
    bytes_in: int = 0
    reconnects: int = 0
    cpu_seconds: float = 0.0


def inference_ms(answer: Answer) -> float:
    """Read `processingTimeMs` from the end of an answer, without parsing its vectors.

    Raises:
        AnswerError: The answer has no `processingTimeMs`.
    """
    at = answer.buffer.rfind(_TIME_KEY, answer.start, answer.end)
    if at >= 0:
        at += len(_TIME_KEY)
        end = answer.buffer.find(b",", at, answer.end)
        try:
            return float(answer.buffer[at : end if end >= 0 else answer.end].rstrip(b"}\n\r "))
        except ValueError:
            pass
    raise AnswerError("the answer has no processingTimeMs")


def unread(_answer: Answer) -> float:
    """Accept any answer of status 200 without reading it; the time is 0."""
    return 0.0
