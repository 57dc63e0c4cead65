"""The errors that the gateway reports to callers.

    GatewayError
    ├── Unauthorized        the key is missing or wrong
    ├── Forbidden           the key does not permit this, or a web page of another origin sent the request
    ├── RateLimited         the caller exceeds its requests per second
    ├── HeadersTooLarge     the headers exceed a limit
    ├── UrlTooLong          the URL exceeds a limit
    ├── ModelNotFound       the model does not exist at the source, or is not loaded
    ├── WrongKind           the route is for another kind of model
    ├── ModelConflict       names collide, or the model is being changed
    ├── TooLarge            a size or a count exceeds a limit
    ├── UnknownEncoding     the body's compression is not supported
    ├── InvalidInput        an input cannot be used
    │   ├── EmptyInput      the request has no input
    │   ├── TextTooLong     the text exceeds the model's limit of tokens, and must not be truncated
    │   └── NoVector        the model computes no finite vector for the input
    ├── InvalidModel        the model cannot be converted, or fails its check
    ├── Overloaded          a queue is full
    ├── Unavailable         Triton or the model is not ready
    ├── DeadlineExceeded    the request exceeded its time limit
    ├── InsufficientStorage the disk is full, or the budget for loaded models is used up
    └── Unsupported         the API defines this feature, but the server does not have it

Callers see the message: one line that says what to change, without paths, addresses or tracebacks. The API
that was called decides the body around it: see `gateway/api/error_bodies.py`.
"""


class GatewayError(Exception):
    """Base class of the errors that callers see.

    Attributes:
        status: the HTTP status of the answer.
        code: the kind of error in one word, for programs.
        retry_after: seconds after which a retry may succeed; None if the error does not say.
    """

    status = 500
    code = ""
    retry_after: int | None = None

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after or self.retry_after


class Unauthorized(GatewayError):
    """The key is missing or wrong."""

    status = 401
    code = "invalid_api_key"


class Forbidden(GatewayError):
    """The key is valid but does not permit this, or a web page of another origin sent the request."""

    status = 403
    code = "forbidden"


class RateLimited(GatewayError):
    """The key or address sends more requests per second than it may."""

    status = 429
    code = "rate_limited"
    retry_after = 1


class HeadersTooLarge(GatewayError):
    """The request has too many headers, or they are too large."""

    status = 431
    code = "headers_too_large"


class UrlTooLong(GatewayError):
    """The URL is too long."""

    status = 414
    code = "url_too_long"


class ModelNotFound(GatewayError):
    """The model does not exist at the source, or is not loaded."""

    status = 404
    code = "model_not_found"


class WrongKind(GatewayError):
    """The model is of another kind than the route is for, or has no score to rank by."""

    status = 400
    code = "wrong_kind"


class ModelConflict(GatewayError):
    """The name collides with another model's, or the model is being changed."""

    status = 409
    code = "model_conflict"


class TooLarge(GatewayError):
    """A size or a count exceeds a limit."""

    status = 413
    code = "too_large"


class UnknownEncoding(GatewayError):
    """The compression of the body is not supported."""

    status = 415
    code = "unknown_encoding"


class InvalidInput(GatewayError):
    """An input cannot be used."""

    status = 422
    code = "invalid_input"


class EmptyInput(InvalidInput):
    """The request has no input."""

    code = "empty_input"


class TextTooLong(InvalidInput):
    """A text has more tokens than the model takes, and the request does not allow truncation."""

    code = "text_too_long"


class NoVector(InvalidInput):
    """The model computes no finite vector for an input."""

    code = "no_vector"


class InvalidModel(GatewayError):
    """The model cannot be converted, or fails its check."""

    status = 422
    code = "invalid_model"


class Overloaded(GatewayError):
    """A queue is full; the server did not start the request."""

    status = 429
    code = "overloaded"
    retry_after = 1


class Unavailable(GatewayError):
    """Triton or the model is not ready."""

    status = 503
    code = "unavailable"
    retry_after = 2


class DeadlineExceeded(GatewayError):
    """The request exceeded its time limit."""

    status = 504
    code = "timeout"


class InsufficientStorage(GatewayError):
    """The disk is full, or the budget for loaded models is used up."""

    status = 507
    code = "insufficient_storage"


class Unsupported(GatewayError):
    """The API defines this feature, but the server does not have it."""

    status = 424
    code = "unsupported"


def kinds() -> list[type[GatewayError]]:
    """Return every kind of error, in the order of this module."""
    found = [kind for kind in globals().values() if isinstance(kind, type) and kind is not GatewayError]
    return [kind for kind in found if issubclass(kind, GatewayError)]
