"""Fixed sizes of batches for CUDA graphs, and batches that are filled up to them.

A CUDA graph repeats its kernels on the same memory, so it computes one size. Torch is not imported.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SMALLEST, LARGEST = 32, 8192
"""Tokens of the smallest and the largest bucket."""

_TOKENS_A_ROW = 8
"""A bucket has one row for so many tokens; batches of shorter texts are computed without a graph."""
_LEAST_ROWS = 4


class Bucket(NamedTuple):
    """One size.

    Attributes:
        tokens: Tokens of the batch.
        rows: Rows of the batch.
        longest: No row is longer.
    """

    tokens: int
    rows: int
    longest: int


def buckets(longest: int | None) -> list[Bucket]:
    """Return all sizes, the smallest first, for texts of at most `longest` tokens; None for no limit.

    Each size is at most one and a half times the one before it, so that at most a third of it is filling.
    """
    sizes = sorted({(SMALLEST << step) * part // 2 for step in range(32) for part in (2, 3)})
    return [
        Bucket(size, max(_LEAST_ROWS, size // _TOKENS_A_ROW), min(size, longest or size))
        for size in sizes
        if size <= LARGEST
    ]


def bucket_for(offered: list[Bucket], lengths: NDArray[np.int32]) -> Bucket | None:
    """Return the smallest of the sizes that holds rows of these lengths, or None."""
    total, longest = int(lengths.sum()), int(lengths.max())
    for bucket in offered:
        if total < bucket.tokens and longest <= bucket.longest:
            return bucket if lengths.size + _fillers(bucket, total) <= bucket.rows else None
    return None


def filled(
    input_ids: NDArray[np.int64], lengths: NDArray[np.int32], bucket: Bucket
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the batch with rows after its own: empty ones, then rows of token 0.

    The last row has a token, because an empty row points at the token that follows it.

    Args:
        input_ids: int64 [total].
        lengths: int32 [batch].
        bucket: The size from `bucket_for`.

    Returns:
        int64 [tokens] and int32 [rows].
    """
    rest = bucket.tokens - input_ids.size
    fillers = _fillers(bucket, input_ids.size)
    ids = np.zeros(bucket.tokens, np.int64)
    ids[: input_ids.size] = input_ids
    rows = np.zeros(bucket.rows, np.int32)
    rows[: lengths.size] = lengths
    rows[-fillers:] = [len(part) for part in np.array_split(np.empty(rest), fillers)]
    return ids, rows


def _fillers(bucket: Bucket, total: int) -> int:
    return -(-(bucket.tokens - total) // bucket.longest)
