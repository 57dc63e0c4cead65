"""From a name to an installed model: find, wait for memory, convert, move into place.

Imports torch only once there is a source and memory for it.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from converters import memory, sources
from converters.errors import NameCollision, NoSpace
from converters.inspect_source import Anatomy, inspect
from converters.progress import Progress
from triton_models.accuracy import Precision
from triton_models.config import model_config, to_text
from triton_models.manifest import Manifest, ManifestError
from triton_models.names import served_name
from triton_models.repository import ForeignModel, ModelNotInRepository, Repository

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


def run(request: Request, progress: Progress) -> tuple[str, Manifest]:
    """Convert and install; returns the served name and the manifest.

    Raises:
        ConversionError: see `converters.errors`.
        InvalidModelName: the name cannot be one.
        OSError: the disk is full or the repository cannot be written.
    """
    served = served_name(request.model_name)
    repository = Repository(request.output)
    with ExitStack() as stack:
        if not request.locked:
            stack.enter_context(locked(repository, served, progress))
        return served, _convert(request, served, repository, progress)


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

    with memory.reserve(repository.state_dir / "conversions", memory.estimate(weight_bytes), waiting):
        yield


def _convert(request: Request, served: str, repository: Repository, progress: Progress) -> Manifest:
    _refuse_collision(repository, served, request.model_name)
    with repository.staging(served) as staged:
        scratch = staged / "scratch"
        scratch.mkdir()
        found = sources.find(request.model_name, request.revision, request.sources, scratch, progress)
        anatomy = inspect(found.directory, trust_remote_code=request.trust_remote_code)
        with reserved(repository, staged, anatomy.weight_bytes, progress):
            manifest = _build(request, found, anatomy, staged, progress)
        shutil.rmtree(scratch)
        config = model_config(served, manifest)
        (staged / "config.pbtxt").write_text(to_text(config), encoding="utf-8")
        repository.install(staged, served, beside=request.beside)
        return manifest


def _build(
    request: Request, found: sources.Found, anatomy: Anatomy, staged: Path, progress: Progress
) -> Manifest:
    progress.step("convert", 0.0, "Loading torch and sentence-transformers")
    if anatomy.notice is not None:
        # Of steps that follow each other at once, watchers see the last; this one stands for seconds.
        progress.step("convert", 0.0, f"Note: {anatomy.notice}")
    from converters.torchvision_cpu import make_importable

    make_importable()
    from converters.sentence_transformer import Origin, build

    building = staged / "building"
    building.mkdir()
    origin = Origin(
        request.model_name,
        request.revision,
        found.source,
        request.trust_remote_code,
        request.precision,
        anatomy.notice,
    )
    manifest = build(found.directory, anatomy, origin, building, request.threads, progress)
    os.rename(building, staged / str(manifest.version))
    return manifest


def refuse_foreign(repository: Repository, served: str) -> None:
    """Refuse a name under which the repository holds what this server did not make.

    Raises:
        NameCollision: it does.
    """
    if repository.is_foreign(served):
        raise NameCollision(str(ForeignModel(served)))


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
