"""Rows of pairs of texts, made of the token ids of each text alone.

A text is tokenised once for all pairs that it is in. The converter compares the rows with the library's.
"""

import numpy as np
from numpy.typing import NDArray

from triton_models.contract.manifest import PairTemplate

Ids = NDArray[np.int64]


class PairRows:
    """Makes the row of a pair: special tokens, flags, truncation.

    Args:
        template: The row's special tokens and the flag of the second text.
        limit: Most tokens of a row, special ones included; None for no limit.
        direction: End of both texts that truncation cuts off, unless a call says otherwise.
    """

    def __init__(self, template: PairTemplate, limit: int | None, direction: str) -> None:
        self._before, self._between, self._after = (
            np.array(part, dtype=np.int64) for part in (template.before, template.between, template.after)
        )
        self._flag = template.flag
        self._special = self._before.size + self._between.size + self._after.size
        self._direction = direction
        self.limit = limit

    def length(self, first: Ids, second: Ids) -> int:
        """Return the number of tokens of a pair before truncation."""
        return self._special + first.size + second.size

    def row(self, first: Ids, second: Ids, direction: str | None = None) -> Ids:
        """Return the elements of `input_ids` of a pair, int64 [L].

        Args:
            first: Ids of the first text without special tokens, int64 [n].
            second: Ids of the second text, int64 [m].
            direction: `left` or `right`; None for the tokenizer's own.
        """
        if self.limit is not None and self.length(first, second) > self.limit:
            kept = longest_first(first.size, second.size, max(0, self.limit - self._special))
            cut = _from_left if (direction or self._direction) == "left" else _from_right
            first, second = cut(first, kept[0]), cut(second, kept[1])
        return np.concatenate((self._before, first, self._between, second | self._flag, self._after))


def longest_first(first: int, second: int, limit: int) -> tuple[int, int]:
    """Return how many tokens are kept of two texts that have more than `limit` together.

    Source: `truncate_encodings` of the `tokenizers` library, strategy LongestFirst.
    """
    shorter, longer = min(first, second), max(first, second)
    longer = shorter if shorter > limit else max(shorter, limit - shorter)
    if shorter + longer > limit:
        shorter, longer = limit // 2, limit // 2 + limit % 2
    return (longer, shorter) if first > second else (shorter, longer)


def _from_left(ids: Ids, kept: int) -> Ids:
    return ids[ids.size - kept :]


def _from_right(ids: Ids, kept: int) -> Ids:
    return ids[:kept]
