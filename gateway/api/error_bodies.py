"""The body of an error, as the API that was asked words it: which one that is, its path tells.

Knows only status, message and code, so that `gateway/errors.py` can use it.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple


class Fault(NamedTuple):
    """What went wrong: HTTP status, one line for the caller, one word for programs."""

    status: int
    message: str
    code: str


Body = tuple[int, dict[str, Any]]
"""Status and JSON of an answer."""

_FIELD = re.compile(r"([A-Za-z_]+)(?:\.[\w.]+)?: ")
_V1 = re.compile(r"(/tei/.+)?/v1(/.*)?")


def error_bodies(path: str) -> Callable[[Fault], Body]:
    """How the API writes an error that this path belongs to."""
    if "/v1" in path and _V1.fullmatch(path):
        return openai
    if path.startswith("/tei/"):
        return tei
    if path.startswith("/weaviate/"):
        return weaviate
    return native


def native(fault: Fault) -> Body:
    """`{"detail"}`."""
    return fault.status, {"detail": fault.message}


OPENAI_TYPES = {"overloaded": "rate_limit_error", "rate_limited": "rate_limit_error"}
"""By our code: what OpenAI calls an error of its 429."""


def openai(fault: Fault) -> Body:
    """OpenAI's; `param` is the field that the message begins with."""
    field = _FIELD.match(fault.message) if fault.status == 422 else None
    error = {
        "message": fault.message,
        "type": OPENAI_TYPES.get(
            fault.code, "server_error" if fault.status >= 500 else "invalid_request_error"
        ),
        "param": field[1] if field else None,
        "code": fault.code,
    }
    return fault.status, {"error": error}


TEI_STATUS = {
    "empty_input": (400, "Empty"),
    "text_too_long": (413, "Validation"),
    "too_large": (413, "Validation"),
    "invalid_input": (422, "Tokenizer"),
    "no_vector": (422, "Backend"),
    "timeout": (424, "Backend"),
    "internal_error": (424, "Backend"),
    "unsupported": (424, "Backend"),
    "unavailable": (503, "Unhealthy"),
}
"""By our code: TEI's status and its `error_type`. What it has no word for keeps our status."""


def tei(fault: Fault) -> Body:
    """Text Embeddings Inference's."""
    status, kind = TEI_STATUS.get(
        fault.code, (fault.status, "Overloaded" if fault.status == 429 else "Validation")
    )
    return status, {"error": fault.message, "error_type": kind}


def weaviate(fault: Fault) -> Body:
    """That of Weaviate's inference containers."""
    return fault.status, {"error": fault.message}
