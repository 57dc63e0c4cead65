"""The reference's tokenizer as a file of the `tokenizers` library, and the check that both give the same ids.

The gateway reads the file without transformers, so everything that the reference does to a text must be
in it: lower-casing, special tokens, truncation.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from sentence_transformers.sentence_transformer.modules.tokenizer import WhitespaceTokenizer
from tokenizers import Tokenizer

from converters.errors import InvalidModel, describe, shorten
from converters.sentence_transformer import word_list
from converters.sentence_transformer.reference import ReferenceModel
from converters.verification.tokenizer_cost import most_characters
from triton_models.contract.library_errors import is_of_a_library
from triton_models.contract.prompts import INPUT_TYPES, InputType
from triton_models.contract.tokens import mark_not_pooled, mark_routed
from triton_models.contract.words import finder

_FEATURES = frozenset(
    {"input_ids", "attention_mask", "token_type_ids", "modality", "prompt_length", "offsets", "task"}
)
_OF_WORDS = frozenset(
    {"input_ids", "attention_mask", "sentence_lengths", "sentence_embedding", "modality", "task"}
)

_NAMED = 3
"""Number of tokens that a notice names."""


class ReferenceTokenizer:
    """Tokenizer that maps texts to elements of `input_ids` as the gateway does.

    Attributes:
        tokenizer: Content of the file.
        has_special_tokens: Whether tokenizers of this kind can put special tokens around texts.
        word_lookup: As in the manifest.
        add_special_tokens: As in the manifest.
        special_ids: As in the manifest.
        include_prompt: As in the manifest.
        routed: As in the manifest.
        lengths: Token limits of the input types that have one of their own.
        max_characters: As in the manifest.

    Raises:
        InvalidModel: A text can block the tokenizer for seconds, or this kind of tokenizer has no file.
    """

    def __init__(self, reference: ReferenceModel) -> None:
        first = reference.first
        words = isinstance(first.tokenizer, WhitespaceTokenizer)
        self.has_special_tokens = not isinstance(first, StaticEmbedding) and not words
        if self.has_special_tokens and not hasattr(first.tokenizer, "backend_tokenizer"):
            raise InvalidModel("the model has a slow tokenizer only; it needs a tokenizer.json")
        self.add_special_tokens = self.has_special_tokens and _adds_special_tokens(first)
        self.word_lookup = word_list.lookup(first.tokenizer) if words else None
        self._keep_words: Callable[[str], str] | None = None
        self.special_ids: list[int] = []
        self.include_prompt = reference.include_prompt
        self.routed = reference.routed
        self.lengths: dict[InputType | None, int] = {}
        if self.word_lookup is not None:
            live = word_list.tokenizer_of(first)
            self.max_characters = most_characters(live)
            self._keep_words = finder(live.get_vocab(), self.word_lookup)
        elif not self.has_special_tokens:
            live = first.tokenizer
            self.max_characters = most_characters(live)
        else:
            # This comes before the first text is tokenised, which could take long.
            self.max_characters = most_characters(first.tokenizer.backend_tokenizer)
            # Each use sets the tokenizer's truncation and padding; until then it has those of its file.
            own = {kind: limit_of(first, kind) for kind in INPUT_TYPES}
            default = limit_of(first, None)
            self.lengths = {kind: limit for kind, limit in own.items() if limit not in (None, default)}
            live = first.tokenizer.backend_tokenizer
            self.special_ids = sorted(first.tokenizer.all_special_ids)
        self.tokenizer = Tokenizer.from_str(live.to_str())
        self.tokenizer.no_padding()

    @property
    def unusual(self) -> dict[str, Any]:
        """Settings that change ids and differ from those of nearly all models."""
        found: dict[str, Any] = {"routed": self.routed} if self.routed else {}
        if self.word_lookup is not None:
            found["word_lookup"] = asdict(self.word_lookup)
        elif self.has_special_tokens and not self.add_special_tokens:
            found["add_special_tokens"] = False
        return found

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
        if input_type in self.routed:
            ids = mark_routed(ids)
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
        if self._keep_words is not None:
            text = self._keep_words(text)
        try:
            ids: list[int] = self.tokenizer.encode(text, add_special_tokens=self.add_special_tokens).ids
        finally:
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
    ) -> list[str]:
        """Compare the ids with the reference's for every text.

        Returns:
            The texts that the tokenizer takes. It fails on the others in the reference and in the gateway
            alike: a WordLevel without an unknown token fails on any word that it does not know.

        Raises:
            InvalidModel: The ids differ, the reference alone fails, or its inputs are not supported.
        """
        taken = []
        for text in texts:
            features = self._features(reference, text, prompt, input_type)
            if features is None:
                continue
            taken.append(text)
            unknown = sorted(set(features) - (_FEATURES if self.word_lookup is None else _OF_WORDS))
            if unknown:
                raise InvalidModel(f"the model takes inputs that are not supported: {', '.join(unknown)}")
            if "token_type_ids" in features and bool(features["token_type_ids"].any()):
                raise InvalidModel(
                    "the model's tokenizer gives token types other than 0, which is not supported"
                )
            if self.word_lookup is None:
                expected = features["input_ids"].reshape(-1).numpy()
            elif "input_ids" in features:
                # The library pads a text without words.
                expected = features["input_ids"][features["attention_mask"] > 0].numpy()
            else:
                # BoW counts the words at once.
                expected = np.asarray(reference.first.tokenizer.tokenize(prompt + text), dtype=np.int64)
            if not np.array_equal(expected, self._encode(prompt + text, input_type)):
                raise InvalidModel(f"tokenizer.json gives other ids than the reference for {shorten(text)}")
        return taken

    def _features(
        self, reference: ReferenceModel, text: str, prompt: str, input_type: InputType | None
    ) -> dict[str, Any] | None:
        """Return the reference's inputs for a text, or None if the tokenizer itself fails on it."""
        try:
            features: dict[str, Any] = reference.model.preprocess(
                [text], prompt=prompt or None, task=input_type
            )
        except BaseException as error:
            if not isinstance(
                error, ValueError | RuntimeError | TypeError | IndexError
            ) and not is_of_a_library(error):
                raise
            if self._fails_on(prompt + text, input_type):
                return None
            raise InvalidModel(
                f"the model's tokenizer fails on {shorten(text)}: {describe(error)}"
            ) from error
        return features

    def _fails_on(self, text: str, input_type: InputType | None) -> bool:
        try:
            self._encode(text, input_type)
        except BaseException as error:
            if not is_of_a_library(error):
                raise
            return True
        return False


def notice_of(tokenizer: Tokenizer, vocab_size: int) -> str | None:
    """Return a clause about tokens whose ids are not below `vocab_size`; None if there are none."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    beyond = sorted((id_, token) for token, id_ in vocabulary.items() if id_ >= vocab_size)
    if not beyond:
        return None
    names = ", ".join(shorten(token, 30) for _, token in beyond[:_NAMED])
    more = f" and {len(beyond) - _NAMED} more" if len(beyond) > _NAMED else ""
    return (
        f"its tokenizer has tokens for which it has no vector, {names}{more}: their ids are beyond its "
        f"table of {vocab_size}, and a text that holds one is refused"
    )


def limit_of(first: Any, input_type: InputType | None) -> int | None:  # noqa: ANN401 - a `ReferenceModel.first`
    """Return the number of tokens that the reference keeps of a text of this type; None for no limit."""
    # No tokenizer fails on an empty text.
    first.preprocess([""], task=input_type)
    truncation = first.tokenizer.backend_tokenizer.truncation
    return None if truncation is None else int(truncation["max_length"])


def _adds_special_tokens(first: Any) -> bool:  # noqa: ANN401 - a `ReferenceModel.first`
    """Return whether the reference puts special tokens around texts, if its tokenizer has any."""
    # A call asks for them or not, which processing_kwargs and the processor's own configuration decide.
    expected: list[int] = first.preprocess([""])["input_ids"].reshape(-1).tolist()
    tokenizer: Tokenizer = first.tokenizer.backend_tokenizer
    bare: list[int] = tokenizer.encode("", add_special_tokens=False).ids
    return bool(expected == tokenizer.encode("").ids or expected != bare)
