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
around it is of the API that was asked: `gateway/api/error_bodies.py`.
"""

import logging

log = logging.getLogger(__name__)


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
