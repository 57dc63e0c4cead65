"""The conversion of exceptions to responses: status, headers, and the body in the format of the API."""

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

from gateway.api.error_bodies import DIALECT, Fault, error_bodies
from gateway.api.validation import describe_validation
from gateway.errors import (
    DeadlineExceeded,
    GatewayError,
    InsufficientStorage,
    InvalidInput,
    InvalidModel,
    Overloaded,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from triton_models.client import errors as triton

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""Status in the metrics when the client disconnects; not standard, but other servers use it too."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 413: TooLarge.code}
"""The code of an error that the framework raises, by status."""


def from_triton(error: triton.TritonError) -> GatewayError:
    """Return the error that callers see for a failure of Triton."""
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
    """Return the status and the JSON body of an error in the native API."""
    return error.status, {"detail": str(error)}


def error_response(error: GatewayError, scope: Scope) -> Response:
    """Return the response for an error, in the format of the API that was called."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return _written(Fault(error.status, str(error), error.code), scope, headers)


def response_to(error: BaseException, scope: Scope) -> Response:
    """Return the response for any exception; all exceptions become responses here."""
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
        # Nobody reads this answer; its status keeps the case apart from our own failures in the metrics.
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
    """Return the declared path of the route that answers, which hides the path that the caller sent.

    All requests without a route share one name, so that callers cannot create endless labels of metrics.
    """
    return getattr(scope.get("route"), "path", "unmatched")


def path_of(scope: Scope) -> str:
    """Return the path of a request without the prefix that a proxy has added."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def install(app: FastAPI) -> None:
    """Make FastAPI answer every exception with `response_to`."""

    async def handle(request: Request, error: Exception) -> Response:
        return response_to(error, request.scope)

    of_libraries = (RequestValidationError, ValidationError, HTTPException, ClientDisconnect)
    for kind in (GatewayError, triton.TritonError, *of_libraries, OSError, Exception):
        app.add_exception_handler(kind, handle)


def _written(fault: Fault, scope: Scope, headers: dict[str, str] | None = None) -> Response:
    status, body = error_bodies(path_of(scope), scope.get(DIALECT))(fault)
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
