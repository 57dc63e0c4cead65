"""Why a conversion ends without a model.

    ConversionError
    ├── SourceNotFound    not_found      no source holds a model of that name
    ├── InvalidModel      invalid_model  there is something, but it is not a model that can be served
    ├── CheckFailed       check_failed   the converted model does not give the reference's vectors
    ├── NoMemory        no_memory      the memory that the process may take is used up
    ├── NoSpace           no_space       the disk is full
    └── NameCollision     collision      the served name belongs to another model

Every message is one line, safe to show to a client: no absolute path, no traceback. What is
anything else is a fault of this program and is reported as `internal`.
"""

import re
from pathlib import Path
from typing import ClassVar


class ConversionError(Exception):
    """The base; `kind` is the word that the caller of the process gets."""

    kind: ClassVar[str] = "internal"

    def __init__(self, message: str) -> None:
        # JSON, and so a model's own files, can hold halves of characters, which no answer can.
        super().__init__(message.encode(errors="backslashreplace").decode())


def is_of_a_library(error: BaseException) -> bool:
    """Whether an error is one that libraries in Rust raise: a plain `Exception`, or a panic, which is none.

    A panic is a `BaseException` of a class that cannot be imported.
    """
    return type(error) is Exception or not isinstance(
        error, Exception | KeyboardInterrupt | SystemExit | GeneratorExit
    )


class SourceNotFound(ConversionError):
    """No source holds a model of that name, or the Hub that might cannot be reached."""

    kind = "not_found"


class InvalidModel(ConversionError):
    """The source is broken, or is a model of a kind that cannot be converted."""

    kind = "invalid_model"


class CheckFailed(ConversionError):
    """The converted model's vectors differ from the reference's."""

    kind = "check_failed"


class NoSpace(ConversionError):
    """The disk of the repository, or of the Hub's cache, is full."""

    kind = "no_space"


class NoMemory(ConversionError):
    """The conversion needs more memory than this process may take."""

    kind = "no_memory"


class NameCollision(ConversionError):
    """Another model is served under the same name."""

    kind = "collision"


_LONGEST_MESSAGE = 300


def describe(error: BaseException, directory: Path | None = None) -> str:
    """An error of a library in one line, without paths of this machine."""
    text = str(error).strip()
    if directory is not None:
        text = text.replace(str(directory), "the model")
    text = re.sub(r"(?<![\w.])(/[\w.@+-]+){2,}/?", "...", " ".join(text.split()))
    text = text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 3] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shorten(text: str, length: int = 60) -> str:
    """A text for a message: printable ASCII, quoted, cut."""
    return ascii(text if len(text) <= length else text[:length] + "...")
