"""The purposes that a text may have, and the prompts that stand for them.

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
"""Prompts that an input type stands for; the first that the model has is taken."""


def prompt_name_of(input_type: InputType, prompts: Mapping[str, str]) -> str | None:
    """The name of the prompt of an input type; None where the model, with these prompts, has none."""
    return next((name for name in PROMPT_NAMES[input_type] if name in prompts), None)
