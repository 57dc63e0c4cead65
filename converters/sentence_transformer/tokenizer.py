"""The reference's tokenizer as a file of the `tokenizers` library, and the check that both give the same ids.

The gateway reads the file without transformers, so everything that the reference does to a text must be
in it: lower-casing, special tokens, truncation.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

from converters.errors import InvalidModel, shorten
from converters.sentence_transformer.reference import ReferenceModel
from converters.verification.tokenizer_cost import most_characters
from triton_models.contract.library_errors import is_of_a_library
from triton_models.contract.prompts import INPUT_TYPES, InputType
from triton_models.contract.tokens import mark_not_pooled

_FEATURES = frozenset(
    {"input_ids", "attention_mask", "token_type_ids", "modality", "prompt_length", "offsets"}
)


class ReferenceTokenizer:
    """Tokenizer that maps texts to elements of `input_ids` as the gateway does.

    Attributes:
        tokenizer: Content of the file.
        is_static: Whether the model is a static embedding.
        add_special_tokens: As in the manifest.
        special_ids: As in the manifest.
        include_prompt: As in the manifest.
        lengths: Token limits of the input types that have one of their own.
        max_characters: As in the manifest.

    Raises:
        InvalidModel: A text can block the tokenizer for seconds, or this kind of tokenizer has no file.
    """

    def __init__(self, reference: ReferenceModel) -> None:
        first = reference.first
        self.is_static = isinstance(first, StaticEmbedding)
        self.add_special_tokens = not self.is_static
        self.include_prompt = reference.include_prompt
        self.lengths: dict[InputType | None, int] = {}
        if self.is_static:
            live, self.special_ids = first.tokenizer, []
            self.max_characters = most_characters(live)
        else:
            if not hasattr(first.tokenizer, "backend_tokenizer"):
                raise InvalidModel("the model has a slow tokenizer only; it needs a tokenizer.json")
            # This comes before the first text is tokenised, which could take long.
            self.max_characters = most_characters(first.tokenizer.backend_tokenizer)
            # Each use sets the tokenizer's truncation and padding; until then it has those of its file.
            own = {kind: _limit(first, kind) for kind in INPUT_TYPES}
            default = _limit(first, None)
            self.lengths = {kind: limit for kind, limit in own.items() if limit not in (None, default)}
            live, self.special_ids = (
                first.tokenizer.backend_tokenizer,
                sorted(first.tokenizer.all_special_ids),
            )
        self.tokenizer = Tokenizer.from_str(live.to_str())
        self.tokenizer.no_padding()

    @property
    def max_seq_length(self) -> int | None:
        """Number of tokens that truncation keeps, special ones included; None for no limit."""
        return self.length(None)

    def length(self, input_type: InputType | None) -> int | None:
        """Return the number of tokens that truncation keeps of a text of this type; None for no limit."""
        truncation = self.tokenizer.truncation
        return self.lengths.get(input_type, None if truncation is None else int(truncation["max_length"]))

    def ids(self, text: str, prompt: str = "", input_type: InputType | None = None) -> NDArray[np.int64]:
        """Return the elements of `input_ids` for a text, int64 [L], with the flags that the graph reads."""
        ids = np.asarray(self._encode(prompt + text, input_type), dtype=np.int64)
        if self.include_prompt or not prompt:
            return ids
        alone = self.tokenizer.encode(prompt, add_special_tokens=self.add_special_tokens).ids
        return mark_not_pooled(ids, len(alone) - (alone[-1] in self.special_ids))

    def _encode(self, text: str, input_type: InputType | None) -> list[int]:
        """Return the ids of a text including its prompt, truncated as texts of its type are."""
        before = self.tokenizer.truncation
        if input_type in self.lengths:
            direction = "right" if before is None else before["direction"]
            self.tokenizer.enable_truncation(self.lengths[input_type], direction=direction)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=self.add_special_tokens).ids
        if input_type in self.lengths:
            if before is None:
                self.tokenizer.no_truncation()
            else:
                self.tokenizer.enable_truncation(**before)
        return ids

    def check_same(
        self,
        reference: ReferenceModel,
        texts: Sequence[str],
        prompt: str = "",
        input_type: InputType | None = None,
    ) -> None:
        """Compare the ids with the reference's for every text.

        Raises:
            InvalidModel: The ids differ, the tokenizer fails, or it gives inputs that are not supported.
        """
        for text in texts:
            try:
                features = reference.model.preprocess([text], prompt=prompt or None, task=input_type)
            except (ValueError, RuntimeError, TypeError, IndexError) as error:
                raise InvalidModel(f"the model's tokenizer fails on {shorten(text)}") from error
            except BaseException as error:
                if not is_of_a_library(error):
                    raise
                raise InvalidModel(f"the model's tokenizer fails on {shorten(text)}") from error
            unknown = sorted(set(features) - _FEATURES)
            if unknown:
                raise InvalidModel(f"the model takes inputs that are not supported: {', '.join(unknown)}")
            if "token_type_ids" in features and bool(features["token_type_ids"].any()):
                raise InvalidModel(
                    "the model's tokenizer gives token types other than 0, which is not supported"
                )
            expected = features["input_ids"].reshape(-1).numpy()
            if not np.array_equal(expected, self._encode(prompt + text, input_type)):
                raise InvalidModel(f"tokenizer.json gives other ids than the reference for {shorten(text)}")


def _limit(first: Any, input_type: InputType | None) -> int | None:  # noqa: ANN401 - a `ReferenceModel.first`
    """Return the number of tokens that the reference keeps of a text of this type; None for no limit."""
    first.preprocess(["text"], task=input_type)
    truncation = first.tokenizer.backend_tokenizer.truncation
    return None if truncation is None else int(truncation["max_length"])
