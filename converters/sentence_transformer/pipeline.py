"""From a name to an installed model: find, wait for memory, convert, move into place.

Imports torch only once there is a source and memory for it.
"""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

from converters.errors import NameCollision
from converters.job import Request, _refuse_collision, locked, reserved
from converters.progress import Progress
from converters.sources import find
from converters.sources.inspection import Anatomy, inspect
from triton_models.contract.config import model_config, to_text
from triton_models.contract.manifest import Manifest
from triton_models.contract.names import served_name
from triton_models.repository.repository import ForeignModel, Repository


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


def _convert(request: Request, served: str, repository: Repository, progress: Progress) -> Manifest:
    _refuse_collision(repository, served, request.model_name)
    with repository.staging(served) as staged:
        scratch = staged / "scratch"
        scratch.mkdir()
        found = find.find(request.model_name, request.revision, request.sources, scratch, progress)
        anatomy = inspect(found.directory, trust_remote_code=request.trust_remote_code)
        with reserved(repository, staged, anatomy.weight_bytes, progress):
            manifest = _build(request, found, anatomy, staged, progress)
        shutil.rmtree(scratch)
        config = model_config(served, manifest)
        (staged / "config.pbtxt").write_text(to_text(config), encoding="utf-8")
        repository.install(staged, served, beside=request.beside)
        return manifest


def _build(
    request: Request, found: find.Found, anatomy: Anatomy, staged: Path, progress: Progress
) -> Manifest:
    progress.step("convert", 0.0, "Loading torch and sentence-transformers")
    if anatomy.notice is not None:
        # Of steps that follow each other at once, watchers see the last; this one stands for seconds.
        progress.step("convert", 0.0, f"Note: {anatomy.notice}")
    from converters.torchvision_shim import make_importable

    make_importable()
    from converters.sentence_transformer.convert import Origin, build

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
