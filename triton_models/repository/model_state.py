"""The state of each model beside its own files: `.state/models/NAME.json`.

The file's modification time is the time of the model's last use.
"""

import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from triton_models.repository.atomic_files import remove, write_atomic

Activity = Literal["converting", "loading", "replacing", "unloading", "deleting"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelState:
    """The state of a model beside its files.

    Attributes:
        wanted: Whether the model is to be loaded whenever Triton serves.
        activity: The change in progress, or None. The model goes on serving during `replacing`, the change
            from one version to another.
        error: Why the last attempt failed, safe to show to a client; None after a success.
        admitted: Whether a load in progress has a place among MAX_LOADED_MODELS; None if none is in progress.
    """

    wanted: bool = False
    activity: Activity | None = None
    error: str | None = None
    admitted: int | None = None


_STATE = TypeAdapter(ModelState)


def read(path: Path) -> ModelState:
    """Return the state in a file; the default if there is no file or it cannot be read."""
    try:
        return _STATE.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return ModelState()
    except (OSError, ValueError):
        logger.warning("the state of %s is damaged and taken as unknown", path.stem)
        return ModelState()


def write(path: Path, state: ModelState) -> None:
    """Record a state atomically for all processes; the default leaves no file.

    The time of the last use stays as it is.
    """
    if state == ModelState() or path.is_dir():
        remove(path)
    if state == ModelState():
        return
    used = last_use(path)
    write_atomic(path, json.dumps(asdict(state)))
    if used is not None:
        os.utime(path, ns=(used, used))


def touch(path: Path) -> None:
    """Record that the model is used now, if its state has a file."""
    with suppress(OSError):
        os.utime(path)


def last_use(path: Path) -> int | None:
    """Return the time of the model's last use in ns since 1970, or None if it is not known."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def read_all(directory: Path) -> dict[str, ModelState]:
    """Return the state of every model that has one, by name in Triton."""
    return {path.stem: read(path) for path in sorted(directory.glob("[!.]*.json"))}
