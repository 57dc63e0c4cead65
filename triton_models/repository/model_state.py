"""What is known about models beside their files: `.state/models/NAME.json`, one a model.

The file's modification time is when the model was last used.

Knows nothing about what a name stands for.
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
    """What is known about a model beside its files.

    wanted: to be loaded whenever Triton serves. activity: what is being done with it now; `replacing`: one
    version takes the other's place, and the model serves meanwhile.
    error: why the last attempt failed, safe to show to a client; None after a success.
    admitted: bytes that a load in progress was given of the budget; None where none is.
    """

    wanted: bool = False
    activity: Activity | None = None
    error: str | None = None
    admitted: int | None = None


_STATE = TypeAdapter(ModelState)


def read(path: Path) -> ModelState:
    """The state; the default where there is none, or none that can be read."""
    try:
        return _STATE.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return ModelState()
    except (OSError, ValueError):
        logger.warning("the state of %s is damaged and taken as unknown", path.stem)
        return ModelState()


def write(path: Path, state: ModelState) -> None:
    """Record it, at once for all processes; the default leaves no file. Not a use of the model."""
    if state == ModelState() or path.is_dir():
        remove(path)
    if state == ModelState():
        return
    used = last_use(path)
    write_atomic(path, json.dumps(asdict(state)))
    if used is not None:
        os.utime(path, ns=(used, used))


def touch(path: Path) -> None:
    """Record that the model is used now, where something is known about it."""
    with suppress(OSError):
        os.utime(path)


def last_use(path: Path) -> int | None:
    """When the model was last used, in ns since 1970; None where that is not known."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


def read_all(directory: Path) -> dict[str, ModelState]:
    """The state of every model that has one, by served name."""
    return {path.stem: read(path) for path in sorted(directory.glob("[!.]*.json"))}
