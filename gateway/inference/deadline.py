"""How long a request may take: REQUEST_TIMEOUT, or less where the caller says so."""

import time
from typing import NamedTuple

from gateway.errors import DeadlineExceeded, InvalidInput


class Deadline(NamedTuple):
    """moment: of `time.monotonic`. own: whether it is the caller's, not the server's."""

    moment: float
    own: bool = False

    @classmethod
    def of(cls, timeout_ms: int | None, most: float) -> "Deadline":
        """Counted from now. timeout_ms: the caller's, None for none. most: the server's, in seconds.

        Raises:
            InvalidInput: the caller's is longer than the server's.
        """
        now = time.monotonic()
        if timeout_ms is None:
            return cls(now + most)
        if timeout_ms > most * 1000:
            raise InvalidInput(
                f"timeout_ms: {timeout_ms} is more than this server's limit of {most * 1000:g}"
            )
        return cls(now + timeout_ms / 1000, own=True)

    def remaining(self) -> float:
        """Seconds, more than 0.

        Raises:
            DeadlineExceeded: there are none.
        """
        if (seconds := self.moment - time.monotonic()) <= 0:
            raise too_late()
        return seconds


def too_late() -> DeadlineExceeded:
    """The error of whoever is out of time."""
    return DeadlineExceeded("the request outlived its time limit; send less, or retry")
