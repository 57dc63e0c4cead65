"""What a caller may ask of the texts of a request: their prompt, and what happens to those that are too long.

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
    """Options of one request; what is not given is as the reference does it.

    prompt: put before each text; it goes before prompt_name, and prompt_name before input_type.
    prompt_name: of the model's own prompts.
    input_type: the model's prompt for queries or documents (the default prompt where it has none), and its
        limit of tokens for them, which holds with any prompt.
    truncate: shorten a text that is too long; False refuses it.
    truncation_direction: the end that is cut off; None for the model's own, nearly always `right`.
    task: another API's word for what the texts are for. A prompt of that name goes before that of input_type.
    """

    prompt_name: str | None = None
    prompt: str | None = None
    input_type: InputType | None = None
    truncate: bool = True
    truncation_direction: Direction | None = None
    task: str | None = None

    def resolve_prompt(self, prompts: Mapping[str, str], default_prompt_name: str | None) -> str:
        """The text that is put before each text, of a model with these prompts.

        Source: sentence-transformers, `BaseModel._resolve_prompt`.

        Raises:
            InvalidInput: the model has no prompt of that name.
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
"""As the reference does it when it is told nothing."""
