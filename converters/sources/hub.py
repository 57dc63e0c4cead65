"""Access to the Hugging Face cache and Hub: whole snapshots of the files that a conversion reads.

The environment variables of huggingface_hub apply (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, HF_ENDPOINT).
"""

import fnmatch
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    DryRunError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx, tqdm, validate_repo_id  # type: ignore[attr-defined]

from converters.errors import SourceNotFound
from converters.progress import Progress
from triton_models.contract.hub_names import text_spellings
from triton_models.contract.names import validate_revision

_PLAIN = ("*.json", "*.txt", "*.model", "*.jinja", "README.md")
_UNREAD = (
    "onnx/*",
    "openvino/*",
    "*.onnx",
    "tf_*",
    "flax_*",
    "rust_*",
    "*.ot",
    "*.h5",
    "*.msgpack",
    "*.gguf",
)
_ANSWER_SECONDS = 10.0


def repository_ids(model_name: str) -> tuple[str, ...]:
    """Return the Hub repositories that a name can mean; a bare one mostly is of sentence-transformers."""
    return (model_name,) if "/" in model_name else text_spellings(model_name)


def cached(repo: str, revision: str | None) -> Path | None:
    """Return the snapshot in the cache; None if there is none with a model's files.

    Raises:
        InvalidModelName: The revision, which is part of a path in the cache, could lead out of it.
    """
    if revision is not None:
        validate_revision(revision)
    # One format of the weights at a time: the cache knows all files of the repository, and would call a
    # snapshot without the other format incomplete.
    for weights in ("*.safetensors", "*.bin"):
        try:
            directory = Path(
                snapshot_download(
                    repo,
                    revision=revision,
                    local_files_only=True,
                    allow_patterns=[*_PLAIN, weights],
                    ignore_patterns=list(_UNREAD),
                )
            )
        except LocalEntryNotFoundError:
            continue
        except HFValidationError:
            # A local directory may have this name, but a Hub repository cannot.
            return None
        has_config = any((directory / name).is_file() for name in ("modules.json", "config.json"))
        if has_config and any(directory.rglob(weights)):
            return directory
    return None


def cached_file(repo: str, name: str) -> Path | None:
    """Return one file of the default branch from the cache; None if it is not there."""
    path = try_to_load_from_cache(repo, name)
    return Path(path) if isinstance(path, str) else None


def download(
    repo: str,
    revision: str | None,
    progress: Progress,
    choose: Callable[[list[str]], list[str]] | None = None,
) -> Path:
    """Fetch a snapshot and return its directory.

    Args:
        repo: The repository, `owner/name`.
        revision: Branch, tag or commit; None for the default branch.
        progress: Receiver of the steps.
        choose: Selects the files to fetch from those of the repository; `needed` by default.

    Raises:
        SourceNotFound: There is no such repository or revision, the Hub refuses access, or it cannot be
            reached.
        InvalidModelName: As in `cached`.
    """
    if revision is not None:
        validate_revision(revision)
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise SourceNotFound(f"{repo} is in no local source and no name of the Hugging Face Hub") from error
    try:
        listed = snapshot_download(repo, revision=revision, dry_run=True, etag_timeout=_ANSWER_SECONDS)
        files = [entry.filename for entry in listed]
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=(choose or needed)(files),
                etag_timeout=_ANSWER_SECONDS,
                tqdm_class=_bar(repo, progress),
            )
        )
    except (DryRunError, HfHubHTTPError, LocalEntryNotFoundError, httpx.TransportError) as error:
        # A dry run wraps the cause of its failure in an error of its own.
        cause = error.__cause__ if isinstance(error, DryRunError) else error
        raise SourceNotFound(f"{repo} is in no local source and {_reason(cause, revision)}") from error


def _reason(error: BaseException | None, revision: str | None) -> str:
    hub = "the Hugging Face Hub"
    if isinstance(error, RevisionNotFoundError):
        return f"{hub} has no revision {revision!r} of it"
    if isinstance(error, RepositoryNotFoundError):
        return f"{hub} has no such model, or it is not public"
    if isinstance(error, HfHubHTTPError):
        return f"{hub} answered with status {error.response.status_code}"
    return f"{hub} could not be reached"


def needed(files: list[str]) -> list[str]:
    """Return the repository's files that a conversion reads: one format of the weights, no code."""
    kept = [name for name in files if not any(fnmatch.fnmatch(name, pattern) for pattern in _UNREAD)]
    chosen = [name for name in kept if any(fnmatch.fnmatch(name, pattern) for pattern in _PLAIN)]
    weights = [name for name in kept if name.endswith((".safetensors", ".bin"))]
    for name in weights:
        folder = name.rpartition("/")[0]
        has_safetensors = any(
            other.endswith(".safetensors") and other.rpartition("/")[0] == folder for other in weights
        )
        if name.endswith(".safetensors") or not has_safetensors:
            chosen.append(name)
    return chosen


def _bar(repo: str, progress: Progress) -> type[tqdm]:
    """Return a tqdm class for huggingface_hub that reports the fetched bytes and draws nothing."""

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - tqdm's own signature
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            drawn: bool | None = super().update(n)
            if self.unit == "B" and self.total:
                progress.step("download", self.n / self.total, f"Downloading {repo}")
            return drawn

    return Bar
