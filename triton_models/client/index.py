"""What Triton says of its repository."""

from collections.abc import Iterable
from typing import NamedTuple


class IndexEntry(NamedTuple):
    """One version of one model as Triton sees it; version 0 and state "" for one never loaded."""

    name: str
    version: int
    state: str
    reason: str


def ready_names(index: Iterable[IndexEntry]) -> set[str]:
    """The models that Triton serves in some version; another may have failed to load beside it."""
    return {entry.name for entry in index if entry.state == "READY"}
