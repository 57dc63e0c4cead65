"""The tokenizer of a CrossEncoder as a file, and the check that rows made with it are the reference's."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from converters.errors import InvalidModel, describe, shorten
from converters.sentence_transformer.pair_reference import Pair, PairReference
from converters.verification.tokenizer_cost import most_characters
from triton_models.contract.library_errors import is_of_a_library
from triton_models.contract.manifest import PairTemplate
from triton_models.contract.pairs import PairRows
from triton_models.contract.tokens import SECOND_TEXT

_FEATURES = frozenset({"input_ids", "attention_mask", "token_type_ids", "modality", "prompt_length"})
_STRATEGY = "longest_first"
_PROBES = ("a", "the", "1", ".")


class PairTokenizer:
    """Tokenizer that maps pairs of texts to rows of `input_ids` as the gateway does.

    Attributes:
        tokenizer: Content of the file, with the truncation that the library uses.
        template: The row of a pair.
        special_ids: As in the manifest.
        max_characters: As in the manifest.
        rows: Makes the rows of pairs.

    Raises:
        InvalidModel: A text can block the tokenizer for seconds, or it does more than the contract supports.
    """

    def __init__(self, reference: PairReference) -> None:
        its: Any = reference.first.tokenizer
        if not hasattr(its, "backend_tokenizer"):
            raise InvalidModel("the model has a slow tokenizer only; it needs a tokenizer.json")
        # This comes before the first text is tokenised, which could take long.
        self.max_characters = most_characters(its.backend_tokenizer)
        self.special_ids: list[int] = sorted(its.all_special_ids)
        # Each use sets the tokenizer's truncation; until then it has that of its file.
        features = reference.model.preprocess([("", "")])
        self.tokenizer = Tokenizer.from_str(its.backend_tokenizer.to_str())
        self.tokenizer.no_padding()
        truncation = self.tokenizer.truncation
        if truncation is not None and truncation["strategy"] != _STRATEGY:
            raise InvalidModel(
                f"processing_kwargs: the truncation {truncation['strategy']!r} is not supported; "
                f"set it to {_STRATEGY}"
            )
        self._bare = Tokenizer.from_str(self.tokenizer.to_str())
        self._bare.no_truncation()
        self.template = _template(self._bare, has_types="token_type_ids" in features)
        limit = None if truncation is None else int(truncation["max_length"])
        direction = "right" if truncation is None else str(truncation["direction"])
        self.rows = PairRows(self.template, limit, direction)

    def row(self, pair: Pair, prompt: str = "") -> NDArray[np.int64]:
        """Return the elements of `input_ids` of a pair, int64 [L]."""
        first, second = (self._ids(text) for text in (prompt + pair[0], pair[1]))
        return self.rows.row(first, second)

    def _ids(self, text: str) -> NDArray[np.int64]:
        return np.array(self._bare.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    def check_same(self, reference: PairReference, pairs: Sequence[Pair], prompt: str = "") -> list[Pair]:
        """Compare the rows with the reference's inputs for every pair.

        Returns:
            The pairs that the tokenizer takes; it fails on the others in the reference and in the gateway.

        Raises:
            InvalidModel: The rows differ, the reference alone fails, or its inputs are not supported.
        """
        taken = []
        for pair in pairs:
            features = self._features(reference, pair, prompt)
            if features is None:
                continue
            taken.append(pair)
            if unknown := sorted(set(features) - _FEATURES):
                raise InvalidModel(f"the model takes inputs that are not supported: {', '.join(unknown)}")
            expected = features["input_ids"].reshape(-1).numpy()
            if "token_type_ids" in features:
                expected = expected + features["token_type_ids"].reshape(-1).numpy() * SECOND_TEXT
            if not np.array_equal(expected, self.row(pair, prompt)):
                raise InvalidModel(
                    f"tokenizer.json gives other tokens than the reference for the pair {shown(pair)}"
                )
        return taken

    def _features(self, reference: PairReference, pair: Pair, prompt: str) -> dict[str, Any] | None:
        """Return the reference's inputs for a pair, or None if the tokenizer itself fails on it."""
        try:
            features: dict[str, Any] = reference.model.preprocess([pair], prompt=prompt or None)
        except BaseException as error:
            if not isinstance(
                error, ValueError | RuntimeError | TypeError | IndexError
            ) and not is_of_a_library(error):
                raise
            if self._fails_on(pair, prompt):
                return None
            raise InvalidModel(
                f"the model's tokenizer fails on the pair {shown(pair)}: {describe(error)}"
            ) from error
        return features

    def _fails_on(self, pair: Pair, prompt: str) -> bool:
        try:
            self.row(pair, prompt)
        except BaseException as error:
            if not is_of_a_library(error):
                raise
            return True
        return False


def shown(pair: Pair) -> str:
    """Return a pair for a message."""
    return " and ".join(shorten(text, 40) for text in pair)


def _template(tokenizer: Tokenizer, *, has_types: bool) -> PairTemplate:
    """Return the row of a pair, found by the tokens around the two texts of a pair of words.

    Args:
        tokenizer: Tokenizer without truncation.
        has_types: Whether the reference passes the token types that the tokenizer gives.
    """
    for text in _PROBES:
        encoding: Encoding = tokenizer.encode(text, text)
        of_texts = encoding.sequence_ids
        types = encoding.type_ids if has_types else [0] * len(encoding.ids)
        elements = [id_ + kind * SECOND_TEXT for id_, kind in zip(encoding.ids, types, strict=True)]
        first, second = ([place for place, of in enumerate(of_texts) if of == number] for number in (0, 1))
        if not first or not second:
            continue
        return PairTemplate(
            before=elements[: first[0]],
            between=elements[first[-1] + 1 : second[0]],
            after=elements[second[-1] + 1 :],
            flag=types[second[0]] * SECOND_TEXT,
        )
    raise InvalidModel("the model's tokenizer makes no token of plain words")
