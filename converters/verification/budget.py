"""Time for the check of a conversion: every model gets the least of it, and more while CHECK_SECONDS last."""

import math
import os
import time

SECONDS = 20.0

_PARTS = 3


class Budget:
    """Time of one of the three parts: the reference's vectors, inputs alone, and inputs in batches.

    Args:
        seconds: Length of all parts together; infinite for the long check.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds / _PARTS

    @property
    def is_over(self) -> bool:
        """True once the time is spent; what every check must have is done nevertheless."""
        return time.monotonic() >= self._end


def check_seconds() -> float:
    """Return CHECK_SECONDS, and infinity for its value 0, which asks for the long check.

    Raises:
        ValueError: The variable is not a number, or negative.
    """
    text = os.environ.get("CHECK_SECONDS", "")
    seconds = float(text) if text else SECONDS
    if not seconds >= 0:
        raise ValueError(f"must be a number of seconds, 0 for the long check (got {text!r})")
    return seconds or math.inf
