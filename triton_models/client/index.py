"""Triton's index of its repository."""

from collections.abc import Iterable
from typing import NamedTuple


class IndexEntry(NamedTuple):
    """One version of one model in Triton; a model that was never loaded has version 0 and state ""."""

    name: str
    version: int
    state: str
    reason: str


def ready_names(index: Iterable[IndexEntry]) -> set[str]:
    """Return the models that Triton serves in some version; another version may have failed to load."""
    return {entry.name for entry in index if entry.state == "READY"}
