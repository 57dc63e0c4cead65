"""Options for the texts of a request: the prompt, and the truncation of long texts.

The rules are those of `SentenceTransformer.encode`, `encode_query` and `encode_document`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gateway.errors import InvalidInput
from triton_models.contract.prompts import InputType, prompt_name_of

Direction = Literal["right", "left"]


@dataclass(frozen=True, slots=True)
class TextOptions:
    """Options of one request; the defaults are the reference's.

    Attributes:
        prompt_name: The name of one of the model's own prompts.
        prompt: Text put before each text. It takes precedence over prompt_name, and that over input_type.
        input_type: Selects the model's prompt for queries or documents, or its default prompt if it has none.
            Also selects the model's token limit for them, which applies with any prompt.
        truncate: Whether to shorten a text that is too long; False refuses it.
        truncation_direction: The end that is cut off; None for the model's own, nearly always `right`.
        task: Another API's name for the use of the texts. A prompt of this name takes precedence over that of
            input_type.
    """

    prompt_name: str | None = None
    prompt: str | None = None
    input_type: InputType | None = None
    truncate: bool = True
    truncation_direction: Direction | None = None
    task: str | None = None

    def resolve_prompt(self, prompts: Mapping[str, str], default_prompt_name: str | None) -> str:
        """Return the prompt that is put before each text.

        Source: sentence-transformers, `BaseModel._resolve_prompt`.

        Args:
            prompts: The model's prompts by name.
            default_prompt_name: The name of the model's default prompt, if it has one.

        Raises:
            InvalidInput: The model has no prompt of the requested name.
        """
        if self.prompt is not None:
            return self.prompt
        name = self.prompt_name
        if name is None and self.task is not None:
            if self.task in prompts:
                return prompts[self.task]
            if self.input_type is None:
                raise InvalidInput(f"input_type: the model has no prompt {self.task!r}; leave it out")
        if name is None and self.input_type is not None:
            name = prompt_name_of(self.input_type, prompts)
        if name is None:
            return prompts.get(default_prompt_name or "", "")
        if name not in prompts:
            there = (
                f"; it has {', '.join(sorted(prompts))}" if prompts else " and no other; send it as prompt"
            )
            raise InvalidInput(f"prompt_name: the model has no prompt {name!r}{there}")
        return prompts[name]


DEFAULT = TextOptions()
"""Options of a request that gives none: the reference's defaults."""
