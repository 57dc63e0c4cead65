"""Texts to token ids, exactly as the reference tokenises, with the `tokenizers` library alone.

Knows nothing about Triton or HTTP.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as TokenizerFile

from triton_models.cleaning import CLEANINGS
from triton_models.manifest import Manifest
from triton_models.tokens import mark_not_pooled

TokenIds = NDArray[np.int64]


class TextTokenizer:
    """The saved tokenizer of one model, with its default prompt."""

    def __init__(self, version_dir: Path, manifest: Manifest) -> None:
        self._file = TokenizerFile.from_file(str(version_dir / "tokenizer.json"))
        self._add_special_tokens = manifest.add_special_tokens
        self._special_ids = frozenset(manifest.special_ids)
        self._include_prompt = manifest.include_prompt
        self._clean = None if manifest.text_cleaning is None else CLEANINGS[manifest.text_cleaning]
        self._fixed_length = manifest.fixed_length
        self._pad_id = manifest.pad_id
        self._prompt = manifest.prompts.get(manifest.default_prompt_name or "", "")
        self._not_pooled = 0 if manifest.include_prompt else self._prompt_length(self._prompt)

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Ids of each text: int64 [length], special tokens included, truncated as the reference does.

        Tokens of a prompt that pooling leaves out carry the NOT_POOLED flag. Rows of a model of fixed length
        are filled up to it.
        """
        prompted = [self._prompt + text for text in texts] if self._prompt else list(texts)
        if self._clean is not None:
            prompted = [self._clean(text) for text in prompted]
        encodings = self._file.encode_batch_fast(prompted, add_special_tokens=self._add_special_tokens)
        if self._fixed_length is not None:
            return [self._filled(encoding.ids) for encoding in encodings]
        rows = [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]
        return [mark_not_pooled(row, self._not_pooled) for row in rows] if self._not_pooled else rows

    def _filled(self, ids: Sequence[int]) -> TokenIds:
        """The ids with padding up to the fixed length, for towers that see their padding."""
        row = np.full(self._fixed_length or 0, self._pad_id, dtype=np.int64)
        row[: len(ids)] = ids
        return row

    def _prompt_length(self, prompt: str) -> int:
        """Tokens of the prompt alone, without a trailing special one.

        Source: sentence-transformers, `Transformer._get_prompt_length`.
        """
        if not prompt:
            return 0
        ids = self._file.encode(prompt, add_special_tokens=self._add_special_tokens).ids
        return len(ids) - 1 if ids and ids[-1] in self._special_ids else len(ids)
