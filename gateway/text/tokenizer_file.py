"""Reads a tokenizer file, calls the `tokenizers` library, and turns the library's failures into errors.

The library raises a plain `Exception`. If its Rust code panics, it raises a `BaseException`.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer

from gateway.errors import InvalidInput, TooLarge
from gateway.text.foreign_ids import ForeignIds
from triton_models.contract.cleaning import CLEANINGS
from triton_models.contract.library_errors import is_of_a_library
from triton_models.contract.manifest import Manifest
from triton_models.contract.words import finder
from triton_models.repository.repository import TOKENIZER, DamagedModel

log = logging.getLogger(__name__)

_PROBES = 300
"""Tokens of the vocabulary that are tried as texts, if a letter is none."""


class TokenizerFile:
    """The `tokenizer.json` of one version of a model.

    Raises:
        DamagedModel: The file is missing, unreadable, or not the one that the conversion wrote.
    """

    def __init__(self, version_dir: Path, manifest: Manifest) -> None:
        self._file = _read(version_dir / TOKENIZER, manifest.tokenizer_sha256)
        self._encode = self._file.encode_batch_fast
        self._special = manifest.add_special_tokens
        self._most = manifest.max_characters
        truncation: dict[str, Any] | None = self._file.truncation
        self.limit = None if truncation is None else int(truncation["max_length"])
        if manifest.kind == "cross-encoder":
            # The texts of a pair are encoded one by one, and truncated together; see `pairs.py`.
            self._file.no_truncation()
            self._special = False
        self.foreign = ForeignIds(self._file, manifest.special_ids, self._most)
        self.direction: str = "right" if truncation is None else truncation["direction"]

    @property
    def is_slow(self) -> bool:
        """True if tokenising time grows faster than the text's length; it must not run on the event loop."""
        return self._most is not None

    def encode(self, texts: list[str], field: str, first: int) -> list[Encoding]:
        """Encode texts, truncated as the file says.

        Args:
            texts: Texts with their prompts.
            field: The place of the texts in the caller's body, for messages.
            first: The index of the first text there.

        Raises:
            InvalidInput: The library fails on a text.
            TooLarge: A text is longer than this tokenizer accepts.
        """
        if self._most is not None:
            self._require_lengths(texts, field, first)
        try:
            return self._encode(texts, add_special_tokens=self._special)
        except BaseException as error:
            raise self._failure(error, texts, field, first) from error

    def encode_whole(self, text: str, *, special: bool, field: str, index: int) -> Encoding:
        """Encode one text with the offsets of its tokens.

        Args:
            text: With its prompt.
            special: Whether to add special tokens.
            field: The place of the text in the caller's body, for messages.
            index: The index of the text there.

        Raises:
            InvalidInput, TooLarge: As `encode`.
        """
        if self._most is not None:
            self._require_lengths([text], field, index)
        try:
            return self._file.encode_batch([text], add_special_tokens=special)[0]
        except BaseException as error:
            raise self._failure(error, [text], field, index) from error

    def special_around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the ids that the file puts before and after every text.

        Raises:
            InvalidInput: The library fails on every text that was tried.
        """
        for text in self._probes():
            try:
                probe = self.encode_whole(text, special=True, field=TOKENIZER, index=0)
            except InvalidInput:
                continue
            content = [place for place, special in enumerate(probe.special_tokens_mask) if not special]
            if content:
                return tuple(probe.ids[: content[0]]), tuple(probe.ids[content[-1] + 1 :])
        # Without a text that has tokens, there is no place between them to find.
        return tuple(self.encode_whole("", special=True, field=TOKENIZER, index=0).ids), ()

    def _probes(self) -> Iterator[str]:
        """Yield texts, at least one of which has a token, in nearly every vocabulary the first."""
        yield "a"
        for id_ in range(_PROBES):
            if (token := self._file.id_to_token(id_)) is not None:
                yield token

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool, field: str) -> str:
        """Return the text of ids, which must be in the vocabulary.

        Raises:
            InvalidInput: The library fails on the ids.
            TooLarge: The text is longer than this tokenizer accepts.
        """
        if self._most is not None:
            length = sum(len(self._file.id_to_token(id_) or "") for id_ in ids)
            if length > self._most:
                raise TooLarge(f"{field}: the ids of {length} characters; this model takes {self._most}")
        try:
            return self._file.decode(list(ids), skip_special_tokens=skip_special_tokens)
        except BaseException as error:
            if not is_of_a_library(error):
                raise
            log.warning("a tokenizer failed on ids: %s", type(error).__name__)
            raise InvalidInput(f"{field}: the model's tokenizer fails on these ids") from error

    def cleaning(self, manifest: Manifest) -> Callable[[str], str] | None:
        """Return the function that a text goes through before it is encoded; None for none."""
        if manifest.word_lookup is not None:
            return finder(self._file.get_vocab(), manifest.word_lookup)
        return None if manifest.text_cleaning is None else CLEANINGS[manifest.text_cleaning]

    def name(self, id_: int) -> str:
        """Return a token for a message, quoted and in ASCII."""
        return ascii(self._file.id_to_token(id_))

    def _require_lengths(self, texts: Sequence[str], field: str, first: int) -> None:
        for index, text in enumerate(texts, first):
            if self._most is not None and len(text) > self._most:
                raise TooLarge(f"{field}.{index}: {len(text)} characters; this model takes {self._most}")

    def _failure(self, error: BaseException, texts: list[str], field: str, first: int) -> BaseException:
        """Return the exception to raise for an error; it names the first text that the library fails on."""
        if not is_of_a_library(error):
            return error
        log.warning("a tokenizer failed on a text: %s", type(error).__name__)
        place = first
        for index, text in enumerate(texts[:-1], first):
            try:
                self._encode([text], add_special_tokens=self._special)
            except BaseException as again:  # noqa: BLE001 - it is sorted
                if not is_of_a_library(again):
                    return again
                break
            place = index + 1
        return InvalidInput(f"{field}.{place}: the model's tokenizer fails on this text")


def _read(path: Path, sha256: str | None) -> Tokenizer:
    """Read the file and compare its SHA-256; older conversions recorded none (None)."""
    problem = f"{TOKENIZER} is damaged; delete and load the model again"
    try:
        content = path.read_bytes()
        file = Tokenizer.from_buffer(content)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_of_a_library(error):
            raise
        raise DamagedModel(problem) from error
    if sha256 not in (None, hashlib.sha256(content).hexdigest()):
        # Another tokenizer would give other ids, and the model would return wrong vectors without an error.
        raise DamagedModel(problem)
    return file
