"""One-line descriptions of pydantic's validation errors."""

from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError


def describe_validation(error: ValidationError | RequestValidationError) -> str:
    """Describe one fault of a body in one line: its place, and the reason."""
    places = [
        ([str(part) for part in fault["loc"] if not _is_of_a_type(part)], str(fault["msg"]))
        for fault in _faults(error)
    ]
    # Every member of a union reports an error; the one that got furthest is the one the caller meant.
    parts, message = max(places, key=lambda place: len(place[0]))
    where, message = ".".join(parts), message.removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def tells_of_surrogate(error: ValidationError) -> bool:
    """Return whether a lone surrogate may have made the JSON unreadable."""
    message = str(_faults(error)[0]["msg"])
    return "surrogate" in message or "hex escape" in message


def _faults(error: ValidationError | RequestValidationError) -> Any:  # noqa: ANN401 - a sequence of dictionaries
    if isinstance(error, RequestValidationError):
        return error.errors()
    # The input is left out: it would be built again for each error.
    return error.errors(include_url=False, include_context=False, include_input=False)


def _is_of_a_type(part: int | str) -> bool:
    """Return whether a part of a location names a member of a union instead of a field or index."""
    return isinstance(part, str) and (
        part in ("body", "str", "int", "bool") or part.startswith(("list[", "constrained-", "literal["))
    )
