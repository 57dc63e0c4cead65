"""The body of an error in the format of the API that was called; the path tells which API it is.

This module depends only on status, message and code, not on the classes of errors.
"""

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple


class Fault(NamedTuple):
    """An error of any API.

    Attributes:
        status: HTTP status.
        message: one line for the caller.
        code: one word for programs.
    """

    status: int
    message: str
    code: str


Body = tuple[int, dict[str, Any]]
"""Status and JSON of an answer."""

DIALECT = "dialect"
"""The key of an ASGI scope under which a route keeps the API of a request that only its body tells."""

Dialect = Literal["native", "tei", "weaviate", "cohere"]

_FIELD = re.compile(r"([A-Za-z_]+)(?:\.[\w.]+)?: ")
_V1 = re.compile(r"(/tei/.+)?/v1(/.*)?")


def error_bodies(path: str, dialect: Dialect | None = None) -> Callable[[Fault], Body]:
    """Return the function that formats errors for the API of this path, or for the one that the body told."""
    if dialect is not None:
        return {"native": native, "tei": tei, "weaviate": weaviate, "cohere": cohere}[dialect]
    if path in ("/v1/rerank", "/v2/rerank"):
        return cohere
    if path == "/score" or ("/v1" in path and _V1.fullmatch(path)):
        return openai
    if path.startswith("/tei/") or path == "/predict":
        return tei
    if path.startswith("/weaviate/"):
        return weaviate
    return native


def native(fault: Fault) -> Body:
    """Format an error as `{"detail"}`."""
    return fault.status, {"detail": fault.message}


OPENAI_TYPES = {"overloaded": "rate_limit_error", "rate_limited": "rate_limit_error"}
"""OpenAI's `type` of an error, by our code; only for errors with status 429."""


def openai(fault: Fault) -> Body:
    """Format an error as OpenAI does; `param` is the field that the message begins with."""
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
    "wrong_kind": (424, "Backend"),
    "unavailable": (503, "Unhealthy"),
}
"""TEI's status and `error_type`, by our code. An error without an entry keeps our status."""


def tei(fault: Fault) -> Body:
    """Format an error as Text Embeddings Inference does."""
    status, kind = TEI_STATUS.get(
        fault.code, (fault.status, "Overloaded" if fault.status == 429 else "Validation")
    )
    return status, {"error": fault.message, "error_type": kind}


def cohere(fault: Fault) -> Body:
    """Format an error for clients of Cohere (`message`), Jina (`detail`), vLLM and infinity (`error`)."""
    status, body = openai(fault)
    return status, {"message": fault.message, "detail": fault.message, **body}


def weaviate(fault: Fault) -> Body:
    """Format an error as Weaviate's inference containers do."""
    return fault.status, {"error": fault.message}
