"""Errors that end a conversion without a model.

    ConversionError
    ├── SourceNotFound    not_found      no source has a model of that name
    ├── InvalidModel      invalid_model  the source exists, but is not a model that can be served
    ├── CheckFailed       check_failed   the converted model does not give the reference's vectors
    ├── NoMemory          no_memory      the process has used all the memory that it may take
    ├── NoSpace           no_space       the disk is full
    └── NameCollision     collision      the served name belongs to another model

Every message is one line and safe to show to a client: it has no absolute path, no traceback and no escapes
of terminals. `converters.causes` makes InvalidModel of the libraries' exceptions. Any other exception is a
fault of this program and is reported as `internal`.
"""

import re
import traceback
from pathlib import Path
from typing import ClassVar


class ConversionError(Exception):
    """Base class; `kind` is the word that the converter process reports to its caller."""

    kind: ClassVar[str] = "internal"

    def __init__(self, message: str) -> None:
        # JSON, and so a model's files, can contain lone surrogates, which a response cannot.
        super().__init__(one_line(message).encode(errors="backslashreplace").decode())


class SourceNotFound(ConversionError):
    """No source has a model of that name, or the Hub, which may have it, cannot be reached."""

    kind = "not_found"


class InvalidModel(ConversionError):
    """The source is broken, or is a kind of model that cannot be converted."""

    kind = "invalid_model"


class CheckFailed(ConversionError):
    """The converted model's vectors differ from the reference's."""

    kind = "check_failed"


class NoSpace(ConversionError):
    """The disk of the repository or of the Hub's cache is full."""

    kind = "no_space"


class NoMemory(ConversionError):
    """The conversion needs more memory than this process may take."""

    kind = "no_memory"


class NameCollision(ConversionError):
    """Another model is served under the same name."""

    kind = "collision"


_LONGEST_MESSAGE = 300
_SHORT = 60
_BARE = (ArithmeticError, LookupError, TypeError, AttributeError)
"""Errors of Python itself, such as "integer modulo by zero"; only the library's line shows their cause."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-_])")


def describe(error: BaseException, directory: Path | None = None) -> str:
    """Format a library's error as one line without paths of this machine."""
    text = one_line(str(error))
    if not text or (isinstance(error, _BARE) and len(text) < _SHORT):
        text = f"{text} ({_failed_line(error)})" if text else _failed_line(error)
    if directory is not None:
        text = text.replace(str(directory), "the model")
    text = re.sub(r"(?<![\w.])(/[\w.@+-]+){2,}/?", "...", text)
    if len(text) > _LONGEST_MESSAGE:
        # Errors of C++ begin with the place in its source and end with the cause.
        text = f"{text[: _LONGEST_MESSAGE // 2]} ... {text[-_LONGEST_MESSAGE // 2 :]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def one_line(text: str) -> str:
    """Return a text without line breaks, colours of terminals and other control characters."""
    return " ".join(_CONTROLS.sub(" ", _ESCAPES.sub("", text)).split())


def _failed_line(error: BaseException) -> str:
    """Return where an error was raised: the function and its line, which may be an `assert`."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].name}: {one_line(frames[-1].line or '')}" if frames else "in a library"


def shorten(text: str, length: int = 60) -> str:
    """Format a text for a message: quoted printable ASCII, cut after `length` characters."""
    return ascii(text if len(text) <= length else text[:length] + "...")
