"""Turns texts into token ids, exactly as the reference does, with the `tokenizers` library alone.

Nothing here depends on Triton.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from gateway.errors import InvalidInput, TextTooLong
from gateway.telemetry.tracing import traced
from gateway.text.foreign_ids import ADVICE
from gateway.text.prompts import DEFAULT, TextOptions
from gateway.text.tokenizer_file import TokenizerFile
from triton_models.contract.manifest import Manifest
from triton_models.contract.prompts import INPUT_TYPES, InputType
from triton_models.contract.tokens import mark_not_pooled, mark_routed
from triton_models.repository.repository import TOKENIZER, DamagedModel

TokenIds = NDArray[np.int64]


class Tokenized(NamedTuple):
    """Tokenised texts, ready for the model.

    Attributes:
        rows: int64 [length] each, special tokens included.
        tokens: Number of tokens of all rows, without padding.
    """

    rows: list[TokenIds]
    tokens: int


class Token(NamedTuple):
    """One token of a text. `start` and `stop` are character offsets; None for a special token."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TextTokenizer:
    """The saved tokenizer of one model, with the model's prompts.

    Raises:
        DamagedModel: The file is missing, unreadable, or not the one that the conversion wrote.
    """

    def __init__(self, version_dir: Path, manifest: Manifest) -> None:
        self._file = TokenizerFile(version_dir, manifest)
        self._add_special_tokens = manifest.add_special_tokens
        self._special_ids = frozenset(manifest.special_ids)
        self._include_prompt, self._routed = manifest.include_prompt, manifest.routed
        self._clean = self._file.cleaning(manifest)
        self._fixed_length, self._pad_id = manifest.fixed_length, manifest.pad_id
        self._vocab_size = manifest.vocab_size
        self._prompts, self._default_prompt_name = manifest.prompts, manifest.default_prompt_name
        self._prompt = DEFAULT.resolve_prompt(self._prompts, self._default_prompt_name)
        self._not_pooled = self._prompt_length(self._prompt)
        self._limit, self._direction = self._file.limit, self._file.direction
        self._own_limits: dict[InputType | None, int] = {
            kind: own for kind in INPUT_TYPES if (own := manifest.length_of(kind)) not in (None, self._limit)
        }
        try:
            around = self._file.special_around() if self._add_special_tokens else ((), ())
        except InvalidInput as error:
            raise DamagedModel(f"{TOKENIZER} fails on any text; delete and load the model again") from error
        self._before, self._after = around

    @property
    def limit(self) -> int | None:
        """Token limit of a text without an input type, special tokens included; None for no limit."""
        return self._limit

    @property
    def is_slow(self) -> bool:
        """True if tokenising time grows faster than the text's length; it must not run on the event loop."""
        return self._file.is_slow

    @traced("tokenize")
    def encode(
        self, texts: Sequence[str], options: TextOptions = DEFAULT, field: str = "text", first: int = 0
    ) -> Tokenized:
        """Tokenise and truncate texts as the reference does.

        Prompt tokens that pooling leaves out carry the NOT_POOLED flag. For a model of fixed length, rows are
        padded.

        Args:
            texts: Texts without prompts.
            options: The prompt, and how to truncate.
            field: The place of the texts in the caller's body, for messages.
            first: The index of the first text there.

        Raises:
            InvalidInput: The prompt does not exist, the tokenizer fails on a text, or a text is too long and
                must not be truncated.
            TooLarge: A text is longer than this tokenizer accepts.
        """
        if options is DEFAULT:
            prompt, not_pooled, limit = self._prompt, self._not_pooled, self._limit
        else:
            prompt = options.resolve_prompt(self._prompts, self._default_prompt_name)
            not_pooled = self._prompt_length(prompt)
            limit = self._limit_of(options)
        encodings = self._file.encode(self._prepared(texts, prompt), field, first)
        as_file = options.truncate and options.truncation_direction in (None, self._direction)
        if as_file and limit == self._limit:
            kept: list[Sequence[int]] = [encoding.ids for encoding in encodings]
        else:
            kept = [
                self._kept(encoding, options, f"{field}.{index}")
                for index, encoding in enumerate(encodings, first)
            ]
        self._require_vectors(kept, field, first)
        return self._tokenized(kept, not_pooled, options)

    @traced("tokenize")
    def encode_ids(
        self,
        rows: Sequence[Sequence[int]],
        options: TextOptions = DEFAULT,
        field: str = "text",
        first: int = 0,
    ) -> Tokenized:
        """Prepare texts that the caller has tokenised; special tokens around them are added if missing.

        The parameters are those of `encode`, with token ids for texts.

        Raises:
            InvalidInput: An id is not in the vocabulary, the ids are of another tokenizer, a text is too long
                and must not be truncated, or there is a prompt, which can only be put before text.
        """
        if rows and options.resolve_prompt(self._prompts, self._default_prompt_name):
            raise InvalidInput(
                f"{field}: a prompt goes before text, not before token ids; send text, or an empty prompt"
            )
        for index, ids in enumerate(rows, first):
            self._check_vocabulary(ids, f"{field}.{index}", f"; if another tokenizer made it, {ADVICE}")
        kept = [self._around(ids, options, f"{field}.{index}") for index, ids in enumerate(rows, first)]
        return self._tokenized(kept, 0, options)

    def tokens(
        self,
        text: str,
        *,
        add_special_tokens: bool = True,
        prompt: str = "",
        field: str = "text",
        index: int = 0,
    ) -> list[Token]:
        """Return every token of a text, without truncation; CLIP's text is cleaned first.

        Raises:
            InvalidInput, TooLarge: As `encode`.
        """
        (prepared,) = self._prepared([text], prompt)
        special = add_special_tokens and self._add_special_tokens
        whole = self._file.encode_whole(prepared, special=special, field=field, index=index)
        parts = self._parts(whole)
        before, after = (len(self._before), len(self._after)) if special else (0, 0)
        found: list[Token] = []
        for number, part in enumerate(parts):
            first = 0 if number == 0 else before
            last = len(part.ids) if number == len(parts) - 1 else len(part.ids) - after
            for place in range(first, last):
                start, stop = part.offsets[place]
                of_text = not part.special_tokens_mask[place]
                shown = prepared[start:stop] if of_text else part.tokens[place]
                where = (start, stop) if of_text else (None, None)
                found.append(Token(part.ids[place], shown, not of_text, *where))
        return found

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True, field: str = "ids") -> str:
        """Return the text of token ids.

        Raises:
            InvalidInput: An id is not in the vocabulary, or the tokenizer fails on the ids.
            TooLarge: The text is longer than this tokenizer accepts.
        """
        self._check_vocabulary(ids, field)
        return self._file.decode(ids, skip_special_tokens=skip_special_tokens, field=field)

    def _prepared(self, texts: Sequence[str], prompt: str) -> list[str]:
        prompted = [prompt + text for text in texts] if prompt else list(texts)
        return prompted if self._clean is None else [self._clean(text) for text in prompted]

    def _tokenized(self, kept: Sequence[Sequence[int]], not_pooled: int, options: TextOptions) -> Tokenized:
        if self._fixed_length is not None:
            return Tokenized([self._filled(ids) for ids in kept], sum(map(len, kept)))
        rows = [np.array(ids, dtype=np.int64) for ids in kept]
        if not_pooled:
            rows = [mark_not_pooled(row, not_pooled) for row in rows]
        if options.input_type in self._routed:
            rows = [mark_routed(row) for row in rows]
        return Tokenized(rows, sum(map(len, kept)))

    def _filled(self, ids: Sequence[int]) -> TokenIds:
        """Pad the ids to the fixed length, for towers that see their padding."""
        row = np.full(self._fixed_length or 0, self._pad_id, dtype=np.int64)
        row[: len(ids)] = ids
        return row

    def _kept(self, encoding: Encoding, options: TextOptions, where: str) -> Sequence[int]:
        """Truncate a text by the request's options, which differ from the tokenizer file's."""
        limit = self._limit_of(options)
        if not encoding.overflowing and (limit is None or len(encoding.ids) <= limit):
            return encoding.ids
        return self._cut(
            [id_ for part in self._parts(encoding) for id_ in self._content(part.ids)], options, where
        )

    def _around(self, ids: Sequence[int], options: TextOptions, where: str) -> Sequence[int]:
        """Put the special tokens around the caller's ids, which are in the vocabulary, and truncate them."""
        content = self._content(ids)
        if self._file.foreign.are(content):
            raise InvalidInput(f"{where}: another tokenizer than the model's made these ids; {ADVICE}")
        return self._cut(content, options, where)

    def _cut(self, content: Sequence[int], options: TextOptions, where: str) -> list[int]:
        """Truncate the content to the model's limit, and put the special tokens around it."""
        length = len(self._before) + len(content) + len(self._after)
        limit = self._limit_of(options)
        if limit is not None and length > limit:
            if not options.truncate:
                kind = "" if options.input_type not in self._own_limits else f" of a {options.input_type}"
                raise TextTooLong(
                    f"{where}: {length} tokens, the model takes {limit}{kind}; shorten it or set truncate"
                )
            most = limit - len(self._before) - len(self._after)
            from_left = (options.truncation_direction or self._direction) == "left"
            content = content[len(content) - most :] if from_left else content[:most]
        return [*self._before, *content, *self._after]

    def _limit_of(self, options: TextOptions) -> int | None:
        """Return the token limit of one text, special tokens included; None for no limit."""
        return self._own_limits.get(options.input_type, self._limit)

    def _content(self, ids: Sequence[int]) -> Sequence[int]:
        """Return the ids without the special tokens around them, if these are present."""
        before, after = len(self._before), len(self._after)
        if tuple(ids[:before]) != self._before or (after and tuple(ids[-after:]) != self._after):
            return ids
        return ids[before : len(ids) - after] if len(ids) >= before + after else ids

    def _parts(self, encoding: Encoding) -> list[Encoding]:
        """Return the parts into which truncation cut a text, in text order; each has its special tokens."""
        parts = [encoding, *encoding.overflowing]
        return parts if self._direction == "right" else parts[::-1]

    def _check_vocabulary(self, ids: Sequence[int], where: str, advice: str = "") -> None:
        if not ids or (min(ids) >= 0 and max(ids) < self._vocab_size):
            return
        place = next(place for place, id_ in enumerate(ids) if not 0 <= id_ < self._vocab_size)
        raise InvalidInput(
            f"{where}.{place}: {ids[place]} is no token of the model; its ids are 0 to {self._vocab_size - 1}"
            f"{advice}"
        )

    def _require_vectors(self, rows: Sequence[Sequence[int]], field: str, first: int) -> None:
        """Refuse texts with tokens that the tokenizer has and the model has not."""
        for index, ids in enumerate(rows, first):
            if ids and max(ids) >= self._vocab_size:
                id_ = next(id_ for id_ in ids if id_ >= self._vocab_size)
                raise InvalidInput(
                    f"{field}.{index}: the text holds {self._file.name(id_)}, a token of the tokenizer for "
                    f"which the model has no vector: its id is {id_}, the model's are 0 to "
                    f"{self._vocab_size - 1}; leave it out"
                )

    def _prompt_length(self, prompt: str) -> int:
        """Count the prompt's tokens that pooling leaves out: of the prompt alone, less a final special token.

        Source: sentence-transformers, `Transformer._get_prompt_length`.
        """
        if not prompt or self._include_prompt:
            return 0
        special = self._add_special_tokens
        ids = self._file.encode_whole(prompt, special=special, field="prompt", index=0).ids
        return len(ids) - 1 if ids and ids[-1] in self._special_ids else len(ids)


def group(rows: Sequence[TokenIds], most: int) -> list[list[int]]:
    """Group the indices of rows of equal length, at most `most` in a group."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_length[row.size].append(index)
    return [
        indices[start : start + most]
        for indices in by_length.values()
        for start in range(0, len(indices), most)
    ]
