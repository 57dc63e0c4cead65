"""Inputs of the check with the reference's vectors, and the part of them that later loads repeat."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_models.contract.manifest import Kind
from triton_models.contract.tokens import ROW_START

KEPT_SAMPLES = 24
KEPT_TOKENS = 512


@dataclass(frozen=True)
class TokenSample:
    """Reference vectors of one text's tokens.

    Attributes:
        row: Index of the text in `Samples`.
        vectors: float32 [L, H].
    """

    row: int
    vectors: NDArray[np.float32]


@dataclass(frozen=True)
class Samples:
    """Texts with their ids and reference vectors, or pairs of texts with the logits of a cross-encoder.

    Attributes:
        texts: Texts including their prompt.
        ids: int64 [L] for each text, L >= 1, flags included.
        vectors: float32 [n, D].
        empty: Vector of a text without tokens, float32 [D]; None if every text has tokens.
        tokens: Token vectors of some texts; empty for CLIP models, which give no token vectors.
        planted_id: A token without a finite vector, see `sentence_graph.plant`; None skips its check.
        not_finite: int64 [L] of each text whose reference vector is not finite; they are not in the others.
        always: Number of the first texts that every check compares; None for all.
        kind: Kind of the model; `vectors` are logits of a cross-encoder.
    """

    texts: list[str]
    ids: list[NDArray[np.int64]]
    vectors: NDArray[np.float32]
    empty: NDArray[np.float32] | None
    tokens: Sequence[TokenSample] = ()
    planted_id: int | None = None
    not_finite: Sequence[NDArray[np.int64]] = ()
    always: int | None = None
    kind: Kind = "embedding"

    def first(self, count: int) -> "Samples":
        """Return the first texts alone, without token vectors."""
        return replace(
            self, texts=self.texts[:count], ids=self.ids[:count], vectors=self.vectors[:count], tokens=()
        )

    def batch(self, rows: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return the flat ids, int64 [total], and the lengths, int32 [batch], of the given rows."""
        chosen = [self.ids[row] for row in rows]
        return np.concatenate(chosen), np.array([len(ids) for ids in chosen], dtype=np.int32)

    def marked_batch(self, rows: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return `batch(rows)` with ROW_START on the first token of every row.

        Grouped requests are marked like this, and the flag must not change any vector.
        """
        ids, lengths = self.batch(rows)
        ids[np.cumsum(lengths) - lengths] |= ROW_START
        return ids, lengths

    def planted_batch(self, rows: Sequence[int], place: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return `marked_batch(rows)` with the row at `place` filled with the planted id."""
        ids, lengths = self.marked_batch(rows)
        start = int(lengths[:place].sum())
        ids[start : start + lengths[place]] = self.planted_id
        return ids, lengths

    def spread(self, count: int, longest: int) -> list[int]:
        """Return at most `count` rows of evenly spread lengths up to `longest` tokens, the longest included.

        If every text is longer than that, the shortest one is returned.
        """
        order = sorted(range(len(self.ids)), key=lambda row: len(self.ids[row]))
        order = [row for row in order if len(self.ids[row]) <= longest] or order[:1]
        places = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
        return [order[place] for place in places]


def save(samples: Samples, path: Path) -> None:
    """Write `check.npz`, the part of the check that is repeated after each load."""
    rows = samples.spread(KEPT_SAMPLES, KEPT_TOKENS)
    input_ids, lengths = samples.batch(rows)
    arrays: dict[str, Any] = {"input_ids": input_ids, "lengths": lengths, "embeddings": samples.vectors[rows]}
    if samples.empty is not None:
        arrays["empty_embedding"] = samples.empty
    np.savez(path, **arrays)
