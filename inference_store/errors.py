"""The store's own errors, each with the name of a gRPC status and a message of one line."""


class StoreError(Exception):
    """An error of the store itself, as opposed to one that a server answered."""

    code = "INTERNAL"


class Miss(StoreError):
    """No record answers the request, and the mode is `serve`. Triton never uses this status."""

    code = "FAILED_PRECONDITION"


class Refused(StoreError):
    """The call is not possible through a store."""

    code = "UNIMPLEMENTED"


class Invalid(StoreError):
    """The request is invalid, for example a tensor that does not fit its shape."""

    code = "INVALID_ARGUMENT"


class Lost(StoreError):
    """The record that would answer is damaged or of a newer format."""

    code = "DATA_LOSS"


class Unavailable(StoreError):
    """The server or the place for records does not answer now."""

    code = "UNAVAILABLE"


class TooSlow(StoreError):
    """The server did not answer in time."""

    code = "DEADLINE_EXCEEDED"


class NotRecorded(StoreError):
    """The server answered, but the answer cannot be recorded, and so `collect` does not return it."""

    code = "RESOURCE_EXHAUSTED"
