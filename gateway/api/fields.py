"""The fields of other APIs: synonyms of ours, fields that can be ignored, and fields that are not supported.

A silently ignored field would give its sender vectors other than expected. So a field is accepted only if it
is one of ours, a synonym from another API, or cannot change a vector. All other fields are refused.
"""

import re
from collections.abc import Collection
from difflib import get_close_matches
from types import TracebackType
from typing import Any

from gateway.errors import InvalidInput, TooLarge

OTHER_NAMES = {
    "output_dimension": "dimensions",
    "output_dtype": "embedding_dtype",
    "embed_dtype": "embedding_dtype",
    "embedding_type": "embedding_dtype",
    "embedding_types": "embedding_dtype",
    "normalized": "normalize",
    "use_activation": "normalize",
    "truncation": "truncate",
    "truncation_side": "truncation_direction",
    "task": "input_type",
}
"""Our field for each synonym that Cohere, Voyage, Jina, Mistral, NIM or vLLM use."""

HARMLESS = frozenset(
    "user metadata request_id priority cache_salt padding safety_identifier service_tier store "
    "return_tokenized_input options".split()
)
"""Fields of other APIs that cannot change a vector."""

NEEDLESS: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (True,),
    "encoding_format": ("float",),
    "endianness": ("native", "little"),
    "late_chunking": (False,),
    "mm_processor_kwargs": ({},),
    "parameters": ({},),
    "return_multivector": (False,),
    "truncate_prompt_tokens": (-1,),
}
"""Fields of other APIs that are not supported, with the values that have no effect and are accepted."""

_MOST_SHOWN = 64


def meaning(name: str, value: object) -> dict[str, object]:
    """Return our fields and values for another API's field.

    Args:
        name: a key of `OTHER_NAMES`.
        value: the value of that field, not yet validated.
    """
    field = OTHER_NAMES[name]
    if field != "embedding_dtype":
        return {field: value}
    if isinstance(value, list) and len(value) == 1:
        # Cohere and Jina return every type in the list; this server returns one.
        value = value[0]
    if value == "base64":
        return {"encoding_format": "base64"}
    return {field: "float32" if value == "float" else value}


def require_needless(name: str, value: object) -> None:
    """Accept a field of `NEEDLESS` if its value has no effect.

    Raises:
        InvalidInput: the value asks for something that the server does not support.
    """
    if value not in NEEDLESS[name]:
        allowed = " or ".join("{}" if one == {} else str(one).lower() for one in NEEDLESS[name])
        raise InvalidInput(f"{name}: only {allowed} can be done here; leave it out")


def unknown(name: str, fields: Collection[str]) -> InvalidInput:
    """Return the error for an unknown field; it suggests a field that may have been meant."""
    shown = name[:_MOST_SHOWN]
    near = [OTHER_NAMES.get(name, "")]
    if near[0] not in fields:
        near = get_close_matches(shown, fields, 1)
    hint = f"; did you mean {near[0]}?" if near else "; leave it out"
    return InvalidInput(f"{shown if shown.isidentifier() else ascii(shown)}: no field of this route{hint}")


class named_as_asked:  # noqa: N801 - a context manager, used as a function
    """Rewrite refusals that leave the context: they name fields and positions as the caller wrote them.

    A class, since a context manager made of a generator costs several times as much, on each request.

    Args:
        given: The inputs by field. The message gives no index for a single input.
        extra: The fields of other APIs in the request.
    """

    __slots__ = ("_extra", "_given")

    def __init__(self, given: dict[str, Any], extra: Collection[str] | None = None) -> None:
        self._given = given
        self._extra = extra

    def __enter__(self) -> None:
        """Do nothing: only what leaves the context counts."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Rewrite the message of a refusal."""
        if not isinstance(error, InvalidInput | TooLarge):
            return
        message = str(error)
        for field, value in self._given.items():
            if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
                message = re.sub(rf"^{field}\.0\b", field, message)
        for name in self._extra or ():
            field = OTHER_NAMES.get(name, "")
            if field and message.startswith(f"{field}:"):
                message = name + message.removeprefix(field)
        error.args = (message,)
