"""How a model is named: by the caller, and in Triton.

Knows nothing about files or servers; every other part asks here.
"""

import re

_PART = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
_MODEL_NAME = re.compile(rf"{_PART}(?:/{_PART})?")


class InvalidModelName(ValueError):
    """The name cannot be the name of a model at any source."""


def validate_model_name(model_name: str) -> None:
    """Accept `name` or `owner/name` as the Hugging Face Hub does.

    Raises:
        InvalidModelName: for anything that could leave a directory or become an option of a command.

    """
    if not _MODEL_NAME.fullmatch(model_name) or ".." in model_name:
        raise InvalidModelName(
            "model_name must be 'name' or 'owner/name' of letters, digits, '-', '_' and '.', "
            "each part at most 96 characters, not starting with '-' or '.', without '..'"
        )


def served_name(model_name: str) -> str:
    """The name in Triton and of the directory: `intfloat/e5-small-v2` is `intfloat_e5-small-v2`.

    Two model names can give one served name; the manifest tells which of them it is.

    Raises:
        InvalidModelName: as `validate_model_name`.

    """
    validate_model_name(model_name)
    return model_name.replace("/", "_")
