"""What one element of `input_ids` carries: a token id and three flags.

The graph of every text model takes the id as `element mod 2**TOKEN_ID_BITS`. All elements stay
below 2**31, so that engines which narrow int64 to int32 lose nothing.
"""

import numpy as np
from numpy.typing import NDArray

TOKEN_ID_BITS = 28
"""The low bits hold the token id."""

WANTS_TOKENS = 1 << 28
"""Flag: first token of a request whose answer is a vector for each token, not one for each row.

A flag and no field of the request: Triton's response cache sees nothing but the bytes of the inputs, so
what they are asked for must be in them.
"""

NOT_POOLED = 1 << 29
"""Flag: the token takes part in attention but not in pooling (a prompt that pooling leaves out)."""

ROW_START = 1 << 30
"""Flag: first token of a row, on every row of a request but its first.

Triton's response cache compares bytes and not shapes. Without the flag, rows `[2, 3]` would answer
a later `[1, 6]` of the same bytes. With it, the positions of the flag are the shape. The graph ignores it.
"""


def mark_rows(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A copy of `rows` (int64 [b, L], L >= 1) with ROW_START on the first token of rows 1 to b - 1.

    Marking what is marked already changes nothing. One row is returned as it is, not copied.
    """
    if rows.shape[0] < 2:
        return rows
    marked = rows.copy()
    marked[1:, 0] |= ROW_START
    return marked


def mark_past_cache(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A copy of marked rows (int64 [b, L], L >= 1) with ROW_START on the very first token too.

    The vectors are the same; the bytes are those of no ordinary request, so that the cache is passed by.
    """
    marked = rows.copy()
    marked[0, 0] |= ROW_START
    return marked


def beside_random(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows (int64 [b, L], L >= 1) and one more of random ids: int64 [b + 1, L], to be marked.

    Bytes that no request had, of an honest shape; the first b vectors are those of the rows.
    """
    ids = np.random.default_rng().integers(0, token_ids(rows).max() + 1, (1, rows.shape[1]))
    return np.concatenate([rows, ids])


def mark_wants_tokens(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """A copy of marked rows (int64 [b, L], L >= 1) with WANTS_TOKENS on the very first token."""
    marked = rows.copy()
    marked[0, 0] |= WANTS_TOKENS
    return marked


def mark_not_pooled(ids: NDArray[np.int64], prompt_length: int) -> NDArray[np.int64]:
    """A copy of `ids` (int64 [L]) with NOT_POOLED on the first `prompt_length` tokens."""
    marked = ids.copy()
    marked[:prompt_length] |= NOT_POOLED
    return marked


def token_ids(elements: NDArray[np.int64]) -> NDArray[np.int64]:
    """The ids without flags, same shape and dtype."""
    return elements & ((1 << TOKEN_ID_BITS) - 1)


def past_cache(row: NDArray[np.int64]) -> NDArray[np.int64]:
    """The row as int64 [1, L] in bytes that no request had: ROW_START, which the graph ignores, at random."""
    marks = np.random.default_rng().integers(0, 2, (1, row.size)) * ROW_START
    return mark_past_cache(row.reshape(1, -1) | marks)
