"""Causes of a failed conversion: the disk, the memory, this program, or else the model.

The libraries raise any exception for a model that they cannot handle. `blamed_on_the_model` wraps the steps
that call them, and turns such an exception into an error that names the cause and what to change.
"""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from converters.errors import ConversionError, InvalidModel, describe
from triton_models.contract.names import InvalidModelName

_OUT_OF_MEMORY = re.compile(
    "not enough memory|can't allocate memory|bad_alloc|failed to map segment|annot allocate memory"
)
_PASSED_ON = (ConversionError, InvalidModelName, KeyboardInterrupt, SystemExit, GeneratorExit)

_ADVICE = (
    (re.compile(r"pad(ding)?[ _]token", re.IGNORECASE), "name its pad_token in tokenizer_config.json"),
    (
        re.compile(r"NOT_IMPLEMENTED|find an implementation|No Op registered", re.IGNORECASE),
        "ONNX Runtime lacks an operator of it; load a model of another architecture",
    ),
)
_ANY_ADVICE = "check that its files are complete and belong together"


@contextmanager
def blamed_on_the_model(what: Callable[[], str], ours: Path | None = None) -> Iterator[None]:
    """Turn exceptions of the libraries into InvalidModel; a full disk and lack of memory stay what they are.

    Args:
        what: Returns what failed, the beginning of the message.
        ours: Directory that this program writes to. A failed access to a file elsewhere is the model's
            fault. None: no failed access is.

    Raises:
        InvalidModel: A library failed on the model.
    """
    try:
        yield
    except _PASSED_ON:
        raise
    except BaseException as error:
        # A panic of a library in Rust is no `Exception`.
        if is_disk_full(error) or is_out_of_memory(error) or _is_of_the_system(error, ours):
            raise
        text = describe(error)
        advice = next((advice for pattern, advice in _ADVICE if pattern.search(str(error))), _ANY_ADVICE)
        raise InvalidModel(f"{what()}: {text}; {advice}") from error


def is_disk_full(error: BaseException) -> bool:
    """Return whether a full disk caused an error, which a library may have wrapped."""
    return any(
        isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in _causes(error)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether lack of memory caused an error; torch and the engines raise their own errors for it."""
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or _OUT_OF_MEMORY.search(str(cause)) is not None
        for cause in _causes(error)
    )


def _is_of_the_system(error: BaseException, ours: Path | None) -> bool:
    """Return whether the system refused access to something that is not the model's."""
    if not isinstance(error, OSError) or error.errno is None:
        return False
    return ours is None or error.filename is None or Path(str(error.filename)).is_relative_to(ours)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
