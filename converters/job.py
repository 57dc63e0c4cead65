"""The request of one conversion, the model's lock, and the reservation of memory."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from converters import memory_reservation
from converters.errors import NameCollision, NoSpace
from converters.progress import Progress
from triton_models.contract.accuracy import Precision
from triton_models.contract.config import model_config, to_text
from triton_models.contract.manifest import Manifest, ManifestError
from triton_models.repository.repository import CONFIG, ForeignModel, ModelNotInRepository, Repository

LOCK_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Request:
    """A request to convert one model.

    Attributes:
        model_name: The model's name.
        output: The repository's directory.
        revision: Branch, tag or commit on the Hub; None for the default.
        sources: Directories that are searched for the model.
        trust_remote_code: Whether to run code that the model brings along.
        threads: Threads of the engine in the check; the number that will serve.
        locked: Whether the caller already holds this model's lock (`Repository.lock_path`).
        beside: Whether the served version stays in place; the caller then switches to the new one.
        precision: Precision of the weights.
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
def locked(repository: Repository, triton_name: str, progress: Progress) -> Iterator[None]:
    """Hold the lock of a model; while another process holds it, report that this one waits."""
    lock = FileLock(repository.lock_path(triton_name))
    while True:
        try:
            lock.acquire(timeout=LOCK_POLL_SECONDS)
            break
        except Timeout:
            progress.step("download", 0.0, f"Waiting: {triton_name} is in use by another process")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def reserved(repository: Repository, staged: Path, weight_bytes: int, progress: Progress) -> Iterator[None]:
    """Reserve the memory for converting weights of this size; wait for other conversions if necessary.

    Raises:
        NoSpace: The disk has less room than the weights need; checked first, rather than after minutes.
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


def install(
    request: Request, repository: Repository, staged: Path, triton_name: str, manifest: Manifest
) -> None:
    """Write the configuration of the converted part in `staged`, and move it to its place in the repository.

    Raises:
        OSError: The disk is full or the repository cannot be written.
    """
    (staged / CONFIG).write_text(to_text(model_config(triton_name, manifest)), encoding="utf-8")
    repository.install(staged, triton_name, beside=request.beside)


def refuse_collision(
    repository: Repository, triton_name: str, model_name: str, pretrained: str | None = None
) -> None:
    """Refuse a served name that another model has.

    Args:
        repository: The model repository.
        triton_name: The served name.
        model_name: The model that is to be served under it.
        pretrained: The weights of a CLIP model; None for others.

    Raises:
        NameCollision: The name belongs to another model, or to one that this server did not make.
    """
    if repository.is_foreign(triton_name):
        raise NameCollision(str(ForeignModel(triton_name)))
    try:
        other = repository.manifest(triton_name)
    except (ModelNotInRepository, ManifestError):
        # There is no such model, or a damaged one, which the new model replaces.
        return
    if (other.model_name, other.pretrained) != (model_name, pretrained):
        asked, taken = (
            f"{name} {tag or ''}".rstrip()
            for name, tag in ((model_name, pretrained), (other.model_name, other.pretrained))
        )
        raise NameCollision(f"{asked} would be served as {triton_name}, which is the name of {taken} already")
