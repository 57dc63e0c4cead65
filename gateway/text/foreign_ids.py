"""Notices token ids of another tokenizer, which the model would embed as other words.

Clients made for OpenAI's API send ids of OpenAI's tokenizer. Where these happen to be ids of the model too,
no error would show that the vector is noise. Ids of the model's own tokenizer come back if their text is
encoded again; those of another seldom do. Nothing else tells them apart.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders

from triton_models.contract.library_errors import is_of_a_library

ADVICE = "send text (langchain-openai: check_embedding_ctx_length=False)"
"""What a caller should do whose ids are of another tokenizer."""

_PROBES = (
    "a dog",
    "small dogs, near the house",
    "two people don't walk on 3 streets!",
    "собака",
    "他在海边看书",
)
"""Texts whose ids come back through every decoder that loses nothing."""

_STRICT_BELOW = 32
"""Ids from which the ends of a text are not compared: callers cut long ones, also in the middle of a word."""

_END = 4
"""Ids of an end at least: a word or a character of several bytes, cut. Of long texts it is an eighth."""


class ForeignIds:
    """The check of one tokenizer.

    Args:
        tokenizer: Its file, which truncates texts or not, and does not pad.
        special_ids: Ids of special tokens. Ids that hold one of these, an added or the unknown token are not
            checked: the text that made an unknown token is lost.
        most: The most characters of a text that are tokenised in a bounded time; None for no bound. Longer
            ones are not checked.
    """

    def __init__(self, tokenizer: Tokenizer, special_ids: Iterable[int], most: int | None) -> None:
        self._tokenizer = tokenizer
        self._most = sys.maxsize if most is None else most
        unknown: str | None = getattr(tokenizer.model, "unk_token", None)
        named = {getattr(tokenizer.model, "unk_id", None), unknown and tokenizer.token_to_id(unknown)}
        self._special_ids = {*special_ids, *tokenizer.get_added_tokens_decoder(), *named}
        truncation = tokenizer.truncation or {}
        self._is_left = truncation.get("direction") == "left"
        # Where the model itself takes few ids, callers cut to so few.
        self._strict_below = min(_STRICT_BELOW, truncation.get("max_length", _STRICT_BELOW) // 2)
        self._decoder = _decoder(tokenizer)
        # A decoder that loses something loses it of these texts too, and can tell nothing.
        survive = [self._survive(ids) for ids in map(self._encode, _PROBES) if self._is_checked(ids)]
        self._can_tell = bool(survive) and all(survive)

    def are(self, ids: Sequence[int]) -> bool:
        """Return whether ids, all in the vocabulary and none special, are those of another tokenizer."""
        return self._can_tell and self._is_checked(ids) and not self._survive(ids)

    def _is_checked(self, ids: Sequence[int]) -> bool:
        return bool(ids) and self._special_ids.isdisjoint(ids)

    def _survive(self, ids: Sequence[int]) -> bool:
        """Return whether the ids of the ids' text are the same, at the ends of a long text any."""
        text = self._decode(ids)
        if len(text) > self._most:
            return True
        again = self._encode(text)
        if len(ids) < self._strict_below:
            return again == list(ids)
        end = max(_END, len(ids) // 8)
        middle = np.array(ids[end:-end], np.int64).tobytes()
        return middle in np.array(again, np.int64).tobytes()

    def _encode(self, text: str) -> list[int]:
        try:
            kept = self._tokenizer.encode(text, add_special_tokens=False)
        except BaseException as error:
            if not is_of_a_library(error):
                raise
            return []
        # Truncation keeps the rest as further parts.
        parts = [kept, *kept.overflowing]
        return [id_ for part in (parts[::-1] if self._is_left else parts) for id_ in part.ids]

    def _decode(self, ids: Sequence[int]) -> str:
        tokens = [self._tokenizer.id_to_token(id_) or "" for id_ in ids]
        if self._decoder is None:
            return " ".join(tokens)
        try:
            text: str = self._decoder.decode(tokens)
        except BaseException as error:
            if not is_of_a_library(error):
                raise
            return ""
        return text


def _decoder(tokenizer: Tokenizer) -> Any:  # noqa: ANN401 - the library has no common type
    """Return the decoder; WordPiece's without the removal of spaces that makes "do n't" one word."""
    decoder = tokenizer.decoder
    if isinstance(decoder, decoders.WordPiece):
        return decoders.WordPiece(prefix=decoder.prefix, cleanup=False)
    return decoder
