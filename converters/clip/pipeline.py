"""Pipeline from a CLIP model's name to its two installed towers: find, wait for memory, convert, install.

Both towers are built before either is installed. If the process is killed between the two installations, the
towers differ in `pair`, and readers do not accept them as a model.
"""

import importlib.util
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from converters.causes import blamed_on_the_model
from converters.errors import SourceNotFound
from converters.job import Request, install, locked, refuse_collision, reserved
from converters.progress import LastStep, Progress
from triton_models.contract.manifest import Manifest
from triton_models.contract.names import HUB_PREFIX, ClipNames, clip_triton_names
from triton_models.repository.repository import Repository

if TYPE_CHECKING:
    from converters.clip.source import ClipFound


def run(request: Request, pretrained: str, progress: Progress) -> dict[str, Manifest]:
    """Convert a CLIP model, install its towers, and return their manifests by name in Triton, text first.

    Args:
        request: The request; its `revision` and `trust_remote_code` are not used.
        pretrained: A tag, the name of a checkpoint file, or empty.
        progress: Receiver of the steps.

    Raises:
        ConversionError: See `converters.errors`.
        InvalidModelName: The names are not valid.
        OSError: The disk is full or the repository cannot be written.
    """
    names = clip_triton_names(request.model_name, pretrained)
    repository = Repository(request.output)
    with ExitStack() as stack:
        if not request.locked:
            for triton_name in (names.text, names.image):
                stack.enter_context(locked(repository, triton_name, progress))
        _refuse_unknown(request.model_name)
        for triton_name in (names.text, names.image):
            refuse_collision(repository, triton_name, request.model_name, pretrained)
        return _convert(request, pretrained, names, repository, progress)


def _convert(
    request: Request, pretrained: str, names: ClipNames, repository: Repository, progress: Progress
) -> dict[str, Manifest]:
    with repository.staging(names.text) as staged:
        progress.step("download", 0.0, "Loading torch and open_clip")
        # open_clip's list of models cannot be read without torch.
        from converters.torchvision_shim import make_importable

        make_importable()
        from converters.clip import source
        from converters.clip.reference import weight_bytes

        last = LastStep(progress)
        with blamed_on_the_model(last.failure):
            found = source.find(request.model_name, pretrained, request.sources, last)
        with (
            blamed_on_the_model(last.failure, repository.root),
            reserved(repository, staged, weight_bytes(found.checkpoint), last),
        ):
            text, image = _build(request, pretrained, found, staged, last)
        install(request, repository, staged / "text", names.text, text)
        install(request, repository, staged / "image", names.image, image)
        return {names.text: text, names.image: image}


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
    origin = convert.ClipOrigin(request.model_name, pretrained, found.source, request.precision)
    manifests = convert.build(reference, origin, text, image, request.threads, progress)
    for building, manifest in zip((text, image), manifests, strict=True):
        os.rename(building, building.parent / str(manifest.version))
    return manifests


def _refuse_unknown(model_name: str) -> None:
    """Refuse an architecture that open_clip lacks before torch is imported, which takes 7 s of CPU."""
    if model_name.startswith(HUB_PREFIX) or "open_clip" in sys.modules:
        # The model is a repository on the Hub, or open_clip is already imported and `source.find` refuses it.
        return
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    roots = map(Path, spec.submodule_search_locations or ())
    if not any((root / "model_configs" / f"{model_name}.json").is_file() for root in roots):
        raise SourceNotFound(f"open_clip has no architecture {model_name!r}")
