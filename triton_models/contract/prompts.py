"""The input types of a text, query and document, and the prompts for them.

Source: sentence-transformers, `SentenceTransformer.encode_query` and `encode_document`.
"""

from collections.abc import Mapping
from typing import Literal, get_args

InputType = Literal["query", "document"]
INPUT_TYPES: tuple[InputType, ...] = get_args(InputType)

PROMPT_NAMES: dict[InputType, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}
"""The prompts of each input type; the first one that the model has is used."""


def prompt_name_of(input_type: InputType, prompts: Mapping[str, str]) -> str | None:
    """Return the name of the prompt for an input type, or None if none of `prompts` is for it."""
    return next((name for name in PROMPT_NAMES[input_type] if name in prompts), None)
