"""The names of a model, the caller's and Triton's.

This module knows nothing about files or servers; every other part takes the rules for names from here.
"""

import re
from dataclasses import dataclass

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_MODEL_NAME = re.compile(rf"{_PART}(?:/{_PART})?")
_TAG = re.compile(_PART)

REVISION = r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,127}"
"""The pattern of a branch, tag or commit of the Hub; `validate_revision` refuses some that match."""

TEXT_SUFFIX, IMAGE_SUFFIX = "_text_encoder", "_image_encoder"
"""The ends of the names in Triton of a CLIP model's towers."""

HUB_PREFIX = "hf-hub:"
"""open_clip's prefix for the name of a CLIP model on the Hugging Face Hub."""

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")
"""The suffixes of a `pretrained` that is a file of a source directory and not a tag of open_clip."""


class InvalidModelName(ValueError):
    """The name cannot be the name of a model at any source."""


def validate_model_name(model_name: str) -> None:
    """Accept `name` or `owner/name` as the Hugging Face Hub does.

    Raises:
        InvalidModelName: The name could leave a directory or become an option of a command.
    """
    if not _MODEL_NAME.fullmatch(model_name) or ".." in model_name:
        raise InvalidModelName(
            "model_name must be 'name' or 'owner/name' of letters, digits, '-', '_' and '.', "
            "each part at most 96 characters, not starting with '-' or '.', without '..'"
        )


def validate_revision(revision: str) -> None:
    """Accept a branch, tag or commit as git and the Hub name them: `main`, `refs/pr/1`, `v1.0`.

    Raises:
        InvalidModelName: The revision could leave the Hub's cache, where it becomes part of a path.
    """
    parts = revision.split("/")
    if (
        not re.fullmatch(REVISION, revision)
        or ".." in revision
        or not all(part and part[0] != "." for part in parts)
    ):
        raise InvalidModelName(
            "revision must be a branch, tag or commit of the Hub: at most 128 letters, digits, '-', '_', '.' "
            "and '/', without '..', and no part may be empty or start with '.'"
        )


def triton_name_of(model_name: str) -> str:
    """Return the name in Triton and of the directory: `intfloat_e5-small-v2` for `intfloat/e5-small-v2`.

    Two model names can give one name in Triton; the manifest tells which of the two models it is.

    Raises:
        InvalidModelName: As for `validate_model_name`.
    """
    validate_model_name(model_name)
    return model_name.replace("/", "_")


@dataclass(frozen=True)
class ClipNames:
    """The names in Triton of a CLIP model's two towers."""

    text: str
    image: str


def validate_clip_name(model_name: str, pretrained: str) -> None:
    """Accept `ViT-B-32` with a tag or a file's name, or `hf-hub:owner/name`, for which `pretrained` is empty.

    Raises:
        InvalidModelName: The name is of another form, or could leave a directory.
    """
    if model_name.startswith(HUB_PREFIX):
        validate_model_name(model_name.removeprefix(HUB_PREFIX))
        if pretrained:
            raise InvalidModelName(f"pretrained must be left out or empty for a model of {HUB_PREFIX}")
    elif not _TAG.fullmatch(model_name) or ".." in model_name:
        raise InvalidModelName(
            "model_name of a CLIP model must be one of open_clip's names, as 'ViT-B-32', "
            f"or '{HUB_PREFIX}owner/name'"
        )
    elif not _TAG.fullmatch(pretrained) or ".." in pretrained:
        raise InvalidModelName(
            "pretrained must be a tag of open_clip, as 'laion2b_s34b_b79k', or the name of a file "
            f"({', '.join(CHECKPOINT_SUFFIXES)}) in a source directory; no path"
        )


def clip_triton_names(model_name: str, pretrained: str) -> ClipNames:
    """Return the names in Triton of a CLIP model's two towers.

    `ViT-B-32` with `openai` gives `ViT-B-32_openai_text_encoder` and `ViT-B-32_openai_image_encoder`.

    Raises:
        InvalidModelName: As for `validate_clip_name`.
    """
    validate_clip_name(model_name, pretrained)
    stem = "_".join(part for part in (model_name, pretrained) if part).replace("/", "_").replace(":", "_")
    return ClipNames(stem + TEXT_SUFFIX, stem + IMAGE_SUFFIX)
