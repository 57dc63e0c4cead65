"""Waits for a condition that another process brings about."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_until(look: Callable[[], Found | None], seconds: float = 120.0, pause: float = 0.02) -> Found:
    """Return the first true result of `look`; the test fails if none comes in time.

    Args:
        look: Called again and again.
        seconds: Longest wait.
        pause: Seconds between two calls.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(pause)
    return found
