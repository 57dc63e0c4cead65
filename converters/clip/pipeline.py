"""From a CLIP model's name to its two installed towers: find, wait for memory, convert, move into place.

Both towers are built before either is installed. A kill between the two moves leaves towers of
different `pair`, which readers take for no model.
"""

import importlib.util
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from converters.errors import NameCollision, SourceNotFound
from converters.job import Request, locked, reserved
from converters.progress import Progress
from converters.sentence_transformer.pipeline import refuse_foreign
from triton_models.contract.config import model_config, to_text
from triton_models.contract.manifest import Manifest, ManifestError
from triton_models.contract.names import HUB_PREFIX, ClipNames, clip_served_names
from triton_models.repository.repository import CONFIG, ModelNotInRepository, Repository

if TYPE_CHECKING:
    from converters.clip.source import ClipFound


@dataclass(frozen=True)
class ClipConverted:
    """Both towers as they were installed."""

    names: ClipNames
    text: Manifest
    image: Manifest


def run(request: Request, pretrained: str, progress: Progress) -> ClipConverted:
    """Convert and install.

    request: its revision and trust_remote_code are not used. pretrained: a tag, a file's name, or empty.

    Raises:
        ConversionError: see `converters.errors`.
        InvalidModelName: the names cannot be ones.
        OSError: the disk is full or the repository cannot be written.
    """
    names = clip_served_names(request.model_name, pretrained)
    repository = Repository(request.output)
    with ExitStack() as stack:
        if not request.locked:
            for served in (names.text, names.image):
                stack.enter_context(locked(repository, served, progress))
        _refuse_unknown(request.model_name)
        for served in (names.text, names.image):
            _refuse_collision(repository, served, request.model_name, pretrained)
        return _convert(request, pretrained, names, repository, progress)


def _convert(
    request: Request, pretrained: str, names: ClipNames, repository: Repository, progress: Progress
) -> ClipConverted:
    with repository.staging(names.text) as staged:
        progress.step("download", 0.0, "Loading torch and open_clip")
        # open_clip knows its models only once torch is there.
        from converters.torchvision_shim import make_importable

        make_importable()
        from converters.clip import source
        from converters.clip.reference import weight_bytes

        found = source.find(request.model_name, pretrained, request.sources, progress)
        with reserved(repository, staged, weight_bytes(found.checkpoint), progress):
            text, image = _build(request, pretrained, found, staged, progress)
        for served, manifest, tower in ((names.text, text, "text"), (names.image, image, "image")):
            config = to_text(model_config(served, manifest))
            (staged / tower / CONFIG).write_text(config, encoding="utf-8")
            repository.install(staged / tower, served, beside=request.beside)
        return ClipConverted(names, text, image)


def _build(
    request: Request, pretrained: str, found: "ClipFound", staged: Path, progress: Progress
) -> tuple[Manifest, Manifest]:
    from converters.clip import convert
    from converters.clip.reference import load

    scratch = staged / "scratch"
    scratch.mkdir()
    text, image = (staged / tower / "building" for tower in ("text", "image"))
    for building in (text, image):
        building.mkdir(parents=True)
    progress.step("convert", 0.05, "Loading the reference")
    reference = load(found, scratch)
    origin = convert.ClipOrigin(request.model_name, pretrained, found.source)
    manifests = convert.build(reference, origin, text, image, request.threads, progress)
    for building, manifest in zip((text, image), manifests, strict=True):
        os.rename(building, building.parent / str(manifest.version))
    return manifests


def _refuse_unknown(model_name: str) -> None:
    """Refuse an architecture that open_clip lacks before torch is imported, which takes 7 s of CPU."""
    if model_name.startswith(HUB_PREFIX) or "open_clip" in sys.modules:
        # Of a repository on the Hub; or open_clip is here already and says it itself.
        return
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    roots = map(Path, spec.submodule_search_locations or ())
    if not any((root / "model_configs" / f"{model_name}.json").is_file() for root in roots):
        raise SourceNotFound(f"open_clip has no architecture {model_name!r}")


def _refuse_collision(repository: Repository, served: str, model_name: str, pretrained: str) -> None:
    refuse_foreign(repository, served)
    try:
        other = repository.manifest(served)
    except (ModelNotInRepository, ManifestError):
        # Nothing there, or something damaged that the new model replaces.
        return
    if (other.model_name, other.pretrained) != (model_name, pretrained):
        taken = f"{other.model_name} {other.pretrained or ''}".rstrip()
        raise NameCollision(
            f"{model_name} {pretrained} would be served as {served}, which is the name of {taken} already"
        )
