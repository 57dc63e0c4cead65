"""Every error a caller can meet, and how it becomes an answer.

    GatewayError
    ├── Unauthorized        no key, or a wrong one
    ├── Forbidden           a valid key, but not for this; or a web page of another origin
    ├── RateLimited         more requests a second than one key may send
    ├── HeadersTooLarge     a limit on the headers
    ├── UrlTooLong          a limit on the URL
    ├── ModelNotFound       no such model at the source, or it is not loaded
    ├── ModelConflict       names collide, or the model is being unloaded or deleted
    ├── TooLarge            a limit on size or number
    ├── UnknownEncoding     the body is packed in a way that is not known here
    ├── InvalidInput        an input cannot be used
    │   ├── EmptyInput      there is none
    │   ├── TextTooLong     more tokens than the model takes, and not to be truncated
    │   └── NoVector        the model computes no finite vector for it
    ├── InvalidModel        the model cannot be converted, or fails its check
    ├── Overloaded          too much is waiting for the model already
    ├── Unavailable         Triton is not there, or not ready
    ├── DeadlineExceeded    the request outlived its time limit
    ├── InsufficientStorage no room for the conversion, or in the budget for loaded models
    └── Unsupported         an API that is spoken here offers it, this server does not

The message is the caller's: one line that says what to change, without path, address or traceback. The body
around it is of the API that was asked: `gateway/dialects/error_bodies.py`.
"""

import errno
import logging

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from gateway.dialects.error_bodies import Fault, error_bodies
from gateway.validation import describe_validation
from triton_models import errors as triton

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status in the metrics, as other servers count it; none of the standard's."""


class GatewayError(Exception):
    """Base of what a caller is told.

    code: the kind of error in one word, for programs. retry_after: seconds.
    """

    code = ""
    retry_after: int | None = None


class Unauthorized(GatewayError):
    """The request carries no key, or a wrong one."""

    code = "invalid_api_key"


class Forbidden(GatewayError):
    """The key is valid and not one for this, or a web page of another origin asks."""

    code = "forbidden"


class RateLimited(GatewayError):
    """The key, or the address, sends more requests a second than it may."""

    code = "rate_limited"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class HeadersTooLarge(GatewayError):
    """The headers are too many or too large."""

    code = "headers_too_large"


class UrlTooLong(GatewayError):
    """The URL is too long."""

    code = "url_too_long"


class ModelNotFound(GatewayError):
    """No such model at the source, or it is not loaded."""

    code = "model_not_found"


class ModelConflict(GatewayError):
    """The name collides with another model's, or the model is being unloaded or deleted."""

    code = "model_conflict"


class TooLarge(GatewayError):
    """A limit on size or number is exceeded."""

    code = "too_large"


class UnknownEncoding(GatewayError):
    """The body is packed in a way that is not known here."""

    code = "unknown_encoding"


class InvalidInput(GatewayError):
    """An input cannot be used."""

    code = "invalid_input"


class EmptyInput(InvalidInput):
    """No input at all."""

    code = "empty_input"


class TextTooLong(InvalidInput):
    """A text has more tokens than the model takes, and is not to be truncated."""

    code = "text_too_long"


class NoVector(InvalidInput):
    """The model computes no finite vector for an input."""

    code = "no_vector"


class InvalidModel(GatewayError):
    """The model cannot be converted, or fails its check."""

    code = "invalid_model"


class Overloaded(GatewayError):
    """Too much is waiting for the model already; the request was not begun."""

    code = "overloaded"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Unavailable(GatewayError):
    """Triton is not there, or the model is on its way."""

    code = "unavailable"
    retry_after = 2


class DeadlineExceeded(GatewayError):
    """The request outlived its time limit."""

    code = "timeout"


class InsufficientStorage(GatewayError):
    """No room on the disk for the conversion, or in the budget for loaded models."""

    code = "insufficient_storage"


class Unsupported(GatewayError):
    """The API that was asked offers this, the server does not."""

    code = "unsupported"


STATUS: dict[type[GatewayError], int] = {
    Unauthorized: 401,
    Forbidden: 403,
    RateLimited: 429,
    HeadersTooLarge: 431,
    UrlTooLong: 414,
    ModelNotFound: 404,
    ModelConflict: 409,
    TooLarge: 413,
    UnknownEncoding: 415,
    InvalidInput: 422,
    EmptyInput: 422,
    TextTooLong: 422,
    NoVector: 422,
    InvalidModel: 422,
    Overloaded: 429,
    Unavailable: 503,
    DeadlineExceeded: 504,
    InsufficientStorage: 507,
    Unsupported: 424,
}

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: TooLarge.code}
"""The word for a failure that the framework found."""


def from_triton(error: triton.TritonError) -> GatewayError:
    """What a failure of Triton means to the caller."""
    if isinstance(error, triton.TritonTimeout):
        return DeadlineExceeded("Triton did not answer within the request's time limit; send less, or retry")
    if isinstance(error, triton.TritonOverloaded):
        return Overloaded("the model's queue in Triton is full; retry in a moment")
    if isinstance(error, triton.ModelLoadFailed):
        return InvalidModel("Triton could not load the model; the server's log has the reason")
    if isinstance(error, triton.InferenceRejected):
        return InvalidInput("Triton rejected the input; the server's log has the reason")
    return Unavailable("Triton is not ready; retry in a moment")


def error_body(error: GatewayError) -> tuple[int, dict[str, str]]:
    """Status and JSON body of an error."""
    return STATUS[type(error)], {"detail": str(error)}


def error_response(error: GatewayError, scope: Scope) -> Response:
    """The answer for an error, as the API that was asked words it."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return _written(Fault(STATUS[type(error)], str(error), error.code), scope, headers)


def response_to(error: BaseException, scope: Scope) -> Response:
    """The one place where exceptions become responses."""
    if isinstance(error, GatewayError):
        return error_response(error, scope)
    if isinstance(error, triton.TritonError):
        log.warning("Triton: %s", error)
        return error_response(from_triton(error), scope)
    if isinstance(error, RequestValidationError | ValidationError):
        return error_response(InvalidInput(describe_validation(error)), scope)
    if isinstance(error, HTTPException):
        fault = Fault(error.status_code, str(error.detail), HTTP_CODES.get(error.status_code, "http_error"))
        return _written(fault, scope, dict(error.headers or {}))
    if isinstance(error, ClientDisconnect):
        # Nobody reads it; it keeps the case apart from our own failures in the metrics.
        return _written(
            Fault(CLIENT_GONE, "the client went away before it had sent its body", "client_gone"), scope
        )
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        log.error("no room on the disk for %s %s: %s", scope["method"], route_of(scope), error.strerror)
        return error_response(
            InsufficientStorage("no room is left on the server's disk; make room, then retry"), scope
        )
    log.error("unexpected error in %s %s", scope["method"], route_of(scope), exc_info=error)
    return _written(Fault(500, "internal error; the server's log has the details", "internal_error"), scope)


def route_of(scope: Scope) -> str:
    """The route that answers, as its path is declared: what callers wrote in its place is nobody's business.

    What matched none shares one name, so that nobody can make labels of metrics without end.
    """
    return getattr(scope.get("route"), "path", "unmatched")


def path_of(scope: Scope) -> str:
    """The path that was asked for, below the prefix that a proxy has put before it."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def install(app: FastAPI) -> None:
    """Let FastAPI answer every exception by `response_to`."""

    async def handle(request: Request, error: Exception) -> Response:
        return response_to(error, request.scope)

    of_libraries = (RequestValidationError, ValidationError, HTTPException, ClientDisconnect)
    for kind in (GatewayError, triton.TritonError, *of_libraries, OSError, Exception):
        app.add_exception_handler(kind, handle)


def _written(fault: Fault, scope: Scope, headers: dict[str, str] | None = None) -> Response:
    status, body = error_bodies(path_of(scope))(fault)
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
