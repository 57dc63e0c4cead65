"""What the store itself answers with an error: the status of gRPC, by name, and one line."""


class StoreError(Exception):
    """An error of the store's own, as opposed to one that a server answered."""

    code = "INTERNAL"


class Miss(StoreError):
    """Nothing recorded answers the request, and the mode is `serve`. Triton never uses this status."""

    code = "FAILED_PRECONDITION"


class Refused(StoreError):
    """The call makes no sense through a store."""

    code = "UNIMPLEMENTED"


class Invalid(StoreError):
    """The request does not fit itself."""

    code = "INVALID_ARGUMENT"


class Lost(StoreError):
    """The record that would answer is damaged or a newer version's."""

    code = "DATA_LOSS"


class Unavailable(StoreError):
    """The server that records come from, or the place where they are, does not answer now."""

    code = "UNAVAILABLE"


class TooSlow(StoreError):
    """The server did not answer in time."""

    code = "DEADLINE_EXCEEDED"


class NotRecorded(StoreError):
    """The server answered, but in `collect` an answer that cannot be recorded is not given."""

    code = "RESOURCE_EXHAUSTED"
