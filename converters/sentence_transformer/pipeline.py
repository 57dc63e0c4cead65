"""Pipeline from a model's name to the installed model: find, wait for memory, convert, install.

torch is imported only when the source is found and its memory is reserved.
"""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

from converters.causes import blamed_on_the_model
from converters.job import Request, install, locked, refuse_collision, reserved
from converters.progress import LastStep, Progress
from converters.sources import find
from converters.sources.inspection import SourceLayout, inspect
from triton_models.contract.manifest import Manifest
from triton_models.contract.names import triton_name_of
from triton_models.repository.repository import Repository


def run(request: Request, progress: Progress) -> dict[str, Manifest]:
    """Convert and install a model, and return its manifest by its name in Triton.

    Raises:
        ConversionError: See `converters.errors`.
        InvalidModelName: The name is not valid.
        OSError: The disk is full or the repository cannot be written.
    """
    triton_name = triton_name_of(request.model_name)
    repository = Repository(request.output)
    with ExitStack() as stack:
        if not request.locked:
            stack.enter_context(locked(repository, triton_name, progress))
        return {triton_name: _convert(request, triton_name, repository, progress)}


def _convert(request: Request, triton_name: str, repository: Repository, progress: Progress) -> Manifest:
    refuse_collision(repository, triton_name, request.model_name)
    with repository.staging(triton_name) as staged:
        scratch = staged / "scratch"
        scratch.mkdir()
        found = find.find(request.model_name, request.revision, request.sources, scratch, progress)
        last = LastStep(progress)
        with blamed_on_the_model(last.failure, repository.root):
            layout = inspect(found.directory, trust_remote_code=request.trust_remote_code)
            with reserved(repository, staged, layout.weight_bytes, last):
                manifest = _build(request, found, layout, staged, last)
        shutil.rmtree(scratch)
        install(request, repository, staged, triton_name, manifest)
        return manifest


def _build(
    request: Request, found: find.Found, layout: SourceLayout, staged: Path, progress: Progress
) -> Manifest:
    progress.step("convert", 0.0, "Loading torch and sentence-transformers")
    if layout.notice is not None:
        # If steps follow each other at once, watchers see only the last. This one stays for seconds.
        progress.step("convert", 0.0, f"Note: {layout.notice}")
    from converters.torchvision_shim import make_importable

    make_importable()
    from converters.sentence_transformer import convert, pair_convert

    building = staged / "building"
    building.mkdir()
    origin = convert.Origin(
        request.model_name,
        request.revision,
        found.source,
        request.trust_remote_code,
        request.precision,
        layout.notice,
    )
    build = pair_convert.build if layout.kind == "cross-encoder" else convert.build
    manifest = build(found.directory, layout, origin, building, request.threads, progress)
    os.rename(building, staged / str(manifest.version))
    return manifest
