"""Waiting for what another process does."""

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_until(look: Callable[[], Found | None], seconds: float = 120.0, pause: float = 0.02) -> Found:
    """The first result that is true; the test fails where none comes in time.

    seconds, pause: the longest wait, and that between two looks.
    """
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(pause)
    return found
