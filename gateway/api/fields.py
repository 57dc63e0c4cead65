"""Names of a body's fields: what other APIs call ours, what may be ignored, what cannot be done.

A field that is ignored in silence gives other vectors than its sender believes to have. So every field is one
of ours, one of another API that means the same, one that cannot change a vector, or refused.
"""

import re
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from gateway.errors import InvalidInput

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
"""Fields of ours by what they are called elsewhere: Cohere, Voyage, Jina, Mistral, NIM, vLLM."""

HARMLESS = frozenset(
    "user metadata request_id priority cache_salt padding safety_identifier service_tier store "
    "return_tokenized_input options".split()
)
"""Fields of other APIs that change no vector."""

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
"""Fields of other APIs that cannot be done here, with the values that ask for nothing."""

_MOST_SHOWN = 64


def meaning(name: str, value: object) -> dict[str, object]:
    """Our fields that another API's field stands for, which `OTHER_NAMES` has."""
    field = OTHER_NAMES[name]
    if field != "embedding_dtype":
        return {field: value}
    if isinstance(value, list) and len(value) == 1:
        # Cohere and Jina give all types that are asked for; here it is one.
        value = value[0]
    if value == "base64":
        return {"encoding_format": "base64"}
    return {field: "float32" if value == "float" else value}


def require_needless(name: str, value: object) -> None:
    """Let a field that cannot be done pass where it asks for nothing.

    Raises:
        InvalidInput: it does ask.
    """
    if value not in NEEDLESS[name]:
        allowed = " or ".join("{}" if one == {} else str(one).lower() for one in NEEDLESS[name])
        raise InvalidInput(f"{name}: only {allowed} can be done here; leave it out")


def unknown(name: str, fields: Collection[str]) -> InvalidInput:
    """The error for a field that is not known, with the one that may have been meant."""
    shown = name[:_MOST_SHOWN]
    near = [OTHER_NAMES.get(name, "")]
    if near[0] not in fields:
        near = get_close_matches(shown, fields, 1)
    hint = f"; did you mean {near[0]}?" if near else "; leave it out"
    return InvalidInput(f"{shown if shown.isidentifier() else ascii(shown)}: no field of this route{hint}")


def tell_as_asked(error: Exception, given: dict[str, Any], extra: Collection[str] | None = None) -> None:
    """Let a message name places and fields as the caller wrote them.

    given: the inputs by their fields: a single one has no index. extra: fields of other APIs that were sent.
    """
    message = str(error)
    for field, value in given.items():
        if isinstance(value, str) or (isinstance(value, list) and value and isinstance(value[0], int)):
            message = re.sub(rf"^{field}\.0\b", field, message)
    for name in extra or ():
        field = OTHER_NAMES.get(name, "")
        if field and message.startswith(f"{field}:"):
            message = name + message.removeprefix(field)
    error.args = (message,)
