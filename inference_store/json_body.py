"""Reading of JSON bodies with a bound on their cost."""

import json
from typing import Any

from inference_store.errors import Invalid

INLINE = 1 << 17
"""The size in bytes up to which a body is read on the event loop, in a few milliseconds."""

MOST_PARTS = 1 << 20
"""The most elements, lists and fields of one body; an element takes up to 60 bytes in Python."""

_PIECE = 1 << 18


def read_json(body: bytes) -> Any:  # noqa: ANN401 - JSON
    """Return the value of a JSON body.

    Raises:
        Invalid: The body has more than MOST_PARTS parts.
        ValueError, RecursionError: The body is not JSON, or nested too deeply.
    """
    if len(body) > MOST_PARTS:
        parts = 0
        # The body is counted in pieces because counting holds the interpreter's lock.
        for start in range(0, len(body), _PIECE):
            piece = body[start : start + _PIECE]
            parts += sum(map(piece.count, (b",", b"[", b"{", b":")))
            if parts > MOST_PARTS:
                raise Invalid(f"the JSON has more than {MOST_PARTS} parts: send tensors in binary")
    return json.loads(body)
