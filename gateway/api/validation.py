"""What pydantic says of a body that does not fit, in one line."""

from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError


def describe_validation(error: ValidationError | RequestValidationError) -> str:
    """One fault of a body: where it is and what is wrong."""
    places = [
        ([str(part) for part in fault["loc"] if not _is_of_a_type(part)], str(fault["msg"]))
        for fault in _faults(error)
    ]
    # Of a union, every member complains; the one that got furthest is the one that was meant.
    parts, message = max(places, key=lambda place: len(place[0]))
    where, message = ".".join(parts), message.removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def tells_of_surrogate(error: ValidationError) -> bool:
    """Whether half a pair of surrogates may have made the JSON unreadable."""
    message = str(_faults(error)[0]["msg"])
    return "surrogate" in message or "hex escape" in message


def _faults(error: ValidationError | RequestValidationError) -> Any:  # noqa: ANN401 - a sequence of dictionaries
    if isinstance(error, RequestValidationError):
        return error.errors()
    # Without the input, which would be made once more for each.
    return error.errors(include_url=False, include_context=False, include_input=False)


def _is_of_a_type(part: int | str) -> bool:
    """Whether a part of a place names a member of a union, and no field or index."""
    return isinstance(part, str) and (
        part in ("body", "str", "int", "bool") or part.startswith(("list[", "constrained-", "literal["))
    )
