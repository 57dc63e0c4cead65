"""The reference's tokenizer as a file of the `tokenizers` library, and the proof that it is the same.

The front end reads the file without transformers, so everything the reference does to a text must be
in it: lower-casing, special tokens, truncation.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer

from converters.errors import InvalidModel
from converters.reference import Reference
from triton_models.tokens import mark_not_pooled

_FEATURES = frozenset(
    {"input_ids", "attention_mask", "token_type_ids", "modality", "prompt_length", "offsets"}
)


class TextTokenizer:
    """Texts to elements of `input_ids`, as the front end does it.

    tokenizer: the file's content. add_special_tokens, special_ids, include_prompt: as in the manifest.
    """

    def __init__(self, reference: Reference) -> None:
        first = reference.first
        self.is_static = isinstance(first, StaticEmbedding)
        self.add_special_tokens = not self.is_static
        self.include_prompt = reference.include_prompt
        if self.is_static:
            live, self.special_ids = first.tokenizer, []
        else:
            # The first use sets truncation and padding in the tokenizer; until then it has those of its file.
            first.preprocess(["text"])
            if not hasattr(first.tokenizer, "backend_tokenizer"):
                raise InvalidModel("the model has a slow tokenizer only; it needs a tokenizer.json")
            live, self.special_ids = (
                first.tokenizer.backend_tokenizer,
                sorted(first.tokenizer.all_special_ids),
            )
        self.tokenizer = Tokenizer.from_str(live.to_str())
        self.tokenizer.no_padding()

    @property
    def max_seq_length(self) -> int | None:
        """Tokens kept by truncation, special ones included; None for no limit."""
        truncation = self.tokenizer.truncation
        return None if truncation is None else int(truncation["max_length"])

    def ids(self, text: str, prompt: str = "") -> NDArray[np.int64]:
        """int64 [L], with the flags that the graph reads."""
        encoding = self.tokenizer.encode(prompt + text, add_special_tokens=self.add_special_tokens)
        ids = np.asarray(encoding.ids, dtype=np.int64)
        if self.include_prompt or not prompt:
            return ids
        alone = self.tokenizer.encode(prompt, add_special_tokens=self.add_special_tokens).ids
        return mark_not_pooled(ids, len(alone) - (alone[-1] in self.special_ids))

    def check_same(self, reference: Reference, texts: Sequence[str], prompt: str = "") -> None:
        """Compare with the reference on every text.

        Raises:
            InvalidModel: other ids, or inputs that the graph does not take.
        """
        for text in texts:
            try:
                features = reference.model.preprocess([text], prompt=prompt or None)
            except (ValueError, RuntimeError, TypeError, IndexError) as error:
                raise InvalidModel(f"the model's tokenizer fails on {shorten(text)}") from error
            unknown = sorted(set(features) - _FEATURES)
            if unknown:
                raise InvalidModel(f"the model takes inputs that are not supported: {', '.join(unknown)}")
            if "token_type_ids" in features and bool(features["token_type_ids"].any()):
                raise InvalidModel(
                    "the model's tokenizer gives token types other than 0, which is not supported"
                )
            expected = features["input_ids"].reshape(-1).numpy()
            encoding = self.tokenizer.encode(prompt + text, add_special_tokens=self.add_special_tokens)
            if not np.array_equal(expected, encoding.ids):
                raise InvalidModel(f"tokenizer.json gives other ids than the reference for {shorten(text)}")


def shorten(text: str, length: int = 60) -> str:
    """A text for a message: printable ASCII, quoted, cut."""
    return ascii(text if len(text) <= length else text[:length] + "...")
