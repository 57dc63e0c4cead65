"""Turns pairs of texts into rows of token ids, exactly as the reference does.

Each text is encoded by itself, so that a query is encoded once for all its documents.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gateway.errors import InvalidInput, TextTooLong
from gateway.telemetry.tracing import traced
from gateway.text.prompts import DEFAULT, TextOptions
from gateway.text.tokenizer import TokenIds, Tokenized
from gateway.text.tokenizer_file import TokenizerFile
from triton_models.contract.manifest import Manifest
from triton_models.contract.pairs import PairRows


class PairTokenizer:
    """The saved tokenizer of a cross-encoder, with the model's prompts.

    Raises:
        DamagedModel: The file is missing, unreadable, or not the one that the conversion wrote.
    """

    def __init__(self, version_dir: Path, manifest: Manifest) -> None:
        assert manifest.scoring is not None
        self._file = TokenizerFile(version_dir, manifest)
        self._vocab_size = manifest.vocab_size
        self._prompts, self._default_prompt_name = manifest.prompts, manifest.default_prompt_name
        self._rows = PairRows(manifest.scoring.template, self._file.limit, self._file.direction)

    @property
    def limit(self) -> int | None:
        """Token limit of a pair, special tokens included; None for no limit."""
        return self._rows.limit

    @property
    def is_slow(self) -> bool:
        """True if tokenising time grows faster than the text's length; it must not run on the event loop."""
        return self._file.is_slow

    def prompt(self, options: TextOptions) -> str:
        """Return the prompt that is put before each first text.

        Raises:
            InvalidInput: The model has no prompt of the requested name.
        """
        return options.resolve_prompt(self._prompts, self._default_prompt_name)

    @traced("tokenize")
    def encode(
        self, texts: Sequence[str], options: TextOptions = DEFAULT, field: str = "text", first: int = 0
    ) -> Tokenized:
        """Tokenise texts without special tokens and without truncation.

        Args:
            texts: Texts with their prompt.
            options: Not used; truncation is part of `row`.
            field: The place of the texts in the caller's body, for messages.
            first: The index of the first text there.

        Raises:
            InvalidInput: The tokenizer fails on a text, or makes a token of it that the model has not.
            TooLarge: A text is longer than this tokenizer accepts.
        """
        del options
        encodings = self._file.encode(list(texts), field, first)
        rows = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        for index, row in enumerate(rows, first):
            if row.size and int(row.max()) >= self._vocab_size:
                raise InvalidInput(
                    f"{field}.{index}: the text holds {self._file.name(int(row.max()))}, a token of the "
                    "tokenizer for which the model has no vector; leave it out"
                )
        return Tokenized(rows, sum(row.size for row in rows))

    def row(self, first: TokenIds, second: TokenIds, options: TextOptions, where: str) -> TokenIds:
        """Return the row of a pair of encoded texts, int64 [L], truncated as the options say.

        Raises:
            TextTooLong: The pair is too long and must not be truncated; `where` is its place in the body.
        """
        if not options.truncate and self.limit is not None:
            length = self._rows.length(first, second)
            if length > self.limit:
                raise TextTooLong(
                    f"{where}: {length} tokens in this pair, the model takes {self.limit}; shorten it or set "
                    "truncate"
                )
        return self._rows.row(first, second, options.truncation_direction)
