"""TODO."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from converters import memory_reservation
from converters.errors import NameCollision, NoSpace
from converters.progress import Progress
from converters.sentence_transformer.pipeline import refuse_foreign
from triton_models.contract.accuracy import Precision
from triton_models.contract.manifest import ManifestError
from triton_models.repository.repository import ModelNotInRepository, Repository

LOCK_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Request:
    """What is asked for.

    output: the repository's directory. sources: directories that are searched for the model.
    threads: of the engine in the check; the number that will serve. precision: of the weights.
    locked: the caller already holds `Repository.lock` of this model. beside: what is served stays in place;
    the caller makes the new version take over.
    """

    model_name: str
    output: Path
    revision: str | None
    sources: Sequence[Path]
    trust_remote_code: bool
    threads: int
    locked: bool
    beside: bool = False
    precision: Precision = "fp32"


@contextmanager
def locked(repository: Repository, served: str, progress: Progress) -> Iterator[None]:
    """Hold the lock of a model, saying so while another process has it."""
    lock = FileLock(repository.lock_path(served))
    while True:
        try:
            lock.acquire(timeout=LOCK_POLL_SECONDS)
            break
        except Timeout:
            progress.step("download", 0.0, f"Waiting: {served} is in use by another process")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def reserved(repository: Repository, staged: Path, weight_bytes: int, progress: Progress) -> Iterator[None]:
    """Hold the memory that a conversion of such weights takes; wait for others that do.

    Raises:
        NoSpace: the disk has less than the weights; said at once, rather than after minutes.
    """
    free = shutil.disk_usage(staged).free
    if free < weight_bytes:
        raise NoSpace(
            f"the conversion needs {weight_bytes >> 20} MB on the repository's disk, {free >> 20} MB are free"
        )

    def waiting() -> None:
        progress.step("convert", 0.0, "Waiting for memory that other conversions are using")

    with memory_reservation.reserve(
        repository.state_dir / "conversions", memory_reservation.estimate(weight_bytes), waiting
    ):
        yield


def _refuse_collision(repository: Repository, served: str, model_name: str) -> None:
    refuse_foreign(repository, served)
    try:
        other = repository.manifest(served)
    except (ModelNotInRepository, ManifestError):
        # Nothing there, or something damaged that the new model replaces.
        return
    if other.model_name != model_name or other.tower is not None:
        raise NameCollision(
            f"{model_name} would be served as {served}, which is the name of {other.model_name} already"
        )
