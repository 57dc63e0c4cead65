"""Every error a caller can meet, and how it becomes an answer.

    GatewayError
    ├── Unauthorized        no key, or a wrong one
    ├── ModelNotFound       no such model at the source, or it is not loaded
    ├── ModelConflict       names collide, or the model is being unloaded or deleted
    ├── TooLarge            a limit on size or number
    ├── InvalidInput        an input cannot be used
    ├── InvalidModel        the model cannot be converted, or fails its check
    ├── Unavailable         Triton is not there, or not ready
    ├── DeadlineExceeded    the request outlived its time limit
    └── InsufficientStorage no room for the conversion

The message is the caller's: one line that says what to change, without path, address or traceback.
"""

import logging

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from triton_models.errors import InferenceRejected, ModelLoadFailed, TritonError, TritonTimeout

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status in the metrics, as other servers count it; none of the standard's."""


class GatewayError(Exception):
    """Base of what a caller is told; `retry_after` is in seconds."""

    retry_after: int | None = None


class Unauthorized(GatewayError):
    """The request carries no key, or a wrong one."""


class ModelNotFound(GatewayError):
    """No such model at the source, or it is not loaded."""


class ModelConflict(GatewayError):
    """The name collides with another model's, or the model is being unloaded or deleted."""


class TooLarge(GatewayError):
    """A limit on size or number is exceeded."""


class InvalidInput(GatewayError):
    """An input cannot be used."""


class InvalidModel(GatewayError):
    """The model cannot be converted, or fails its check."""


class Unavailable(GatewayError):
    """Triton is not there, or the model is on its way."""

    retry_after = 2


class DeadlineExceeded(GatewayError):
    """The request outlived its time limit."""


class InsufficientStorage(GatewayError):
    """No room on the disk for the conversion."""


STATUS: dict[type[GatewayError], int] = {
    Unauthorized: 401,
    ModelNotFound: 404,
    ModelConflict: 409,
    TooLarge: 413,
    InvalidInput: 422,
    InvalidModel: 422,
    Unavailable: 503,
    DeadlineExceeded: 504,
    InsufficientStorage: 507,
}


def from_triton(error: TritonError) -> GatewayError:
    """What a failure of Triton means to the caller."""
    if isinstance(error, TritonTimeout):
        return DeadlineExceeded("Triton did not answer within the request's time limit; send less, or retry")
    if isinstance(error, ModelLoadFailed):
        return InvalidModel("Triton could not load the model; the server's log has the reason")
    if isinstance(error, InferenceRejected):
        return InvalidInput("Triton rejected the input; the server's log has the reason")
    return Unavailable("Triton is not ready; retry in a moment")


def error_body(error: GatewayError) -> tuple[int, dict[str, str]]:
    """Status and JSON body of an error."""
    return STATUS[type(error)], {"detail": str(error)}


def error_response(error: GatewayError) -> Response:
    """The answer for an error."""
    status, body = error_body(error)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return _json(status, body, headers)


def describe_validation(error: ValidationError | RequestValidationError) -> str:
    """One fault of a body, in one line: where it is and what is wrong."""
    places = [
        ([str(part) for part in fault["loc"] if part not in ("body", "str", "list[str]")], str(fault["msg"]))
        for fault in error.errors()
    ]
    # Of a union, every member complains; the one that got furthest is the one that was meant.
    parts, message = max(places, key=lambda place: len(place[0]))
    where, message = ".".join(parts), message.removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def response_to(error: Exception, scope: Scope) -> Response:
    """The one place where exceptions become responses."""
    if isinstance(error, GatewayError):
        return error_response(error)
    if isinstance(error, TritonError):
        log.warning("Triton: %s", error)
        return error_response(from_triton(error))
    if isinstance(error, RequestValidationError | ValidationError):
        return _json(422, {"detail": describe_validation(error)})
    if isinstance(error, HTTPException):
        return _json(error.status_code, {"detail": str(error.detail)}, dict(error.headers or {}))
    if isinstance(error, ClientDisconnect):
        # Nobody reads it; it keeps the case apart from our own failures in the metrics.
        return _json(CLIENT_GONE, {"detail": "the client went away before it had sent its body"})
    log.error("unexpected error in %s %s", scope["method"], scope["path"], exc_info=error)
    return _json(500, {"detail": "internal error; the server's log has the details"})


def install(app: FastAPI) -> None:
    """Let FastAPI answer every exception by `response_to`."""

    async def handle(request: Request, error: Exception) -> Response:
        return response_to(error, request.scope)

    for kind in (GatewayError, TritonError, RequestValidationError, ValidationError, HTTPException):
        app.add_exception_handler(kind, handle)
    app.add_exception_handler(ClientDisconnect, handle)
    app.add_exception_handler(Exception, handle)


def _json(status: int, body: dict[str, str], headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
