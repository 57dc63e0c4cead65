"""The elements of `input_ids`: each holds a token id and five flags.

The graph of every text model computes the id as `element mod 2**TOKEN_ID_BITS`. All elements stay
below 2**31, so that engines which narrow int64 to int32 lose nothing.
"""

import math

import numpy as np
from numpy.typing import NDArray

TOKEN_ID_BITS = 26
"""The number of low bits that hold the token id."""

SECOND_TEXT = 1 << 26
"""Flag on a token of the second text of a pair, if the model's tokenizer gives it the token type 1."""

ROUTED = 1 << 27
"""Flag on every token of a text that takes the other of two routes, see `Manifest.routed`."""

WANTS_TOKENS = 1 << 28
"""Flag on the first token of a request that asks for a vector for each token, not one for each row.

It is a flag and not a field of the request because Triton's response cache sees only the bytes of the inputs.
They must therefore say which vectors are asked for.
"""

NOT_POOLED = 1 << 29
"""Flag on a token that takes part in attention but not in pooling (of a prompt that pooling leaves out)."""

ROW_START = 1 << 30
"""Flag on the first token of every row of a request but the first row.

Triton's response cache compares bytes and not shapes. Without the flag, the answer to rows `[2, 3]` would be
given to a later `[1, 6]` of the same bytes. With it, the positions of the flag encode the shape. The graph
ignores it.
"""

_RANDOM_BITS = 32
"""The random bits of a request that must differ from all earlier ones: one token alone has few."""


def mark_rows(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a copy of `rows` (int64 [b, L], L >= 1) with ROW_START on the first token of rows 1 to b - 1.

    Rows that are already marked stay as they are. A single row is returned itself, not as a copy.
    """
    if rows.shape[0] < 2:
        return rows
    marked = rows.copy()
    marked[1:, 0] |= ROW_START
    return marked


def mark_past_cache(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a copy of marked rows (int64 [b, L], L >= 1) with ROW_START on the very first token too.

    The vectors are the same, but no ordinary request has these bytes, so the cached answers to ordinary
    requests are not used.
    """
    marked = rows.copy()
    marked[0, 0] |= ROW_START
    return marked


def beside_random(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows (int64 [b, L], L >= 1) and n >= 1 rows of random ids: int64 [b + n, L], not marked.

    The first b vectors are those of the rows. The added rows hold at least `_RANDOM_BITS` random bits, so
    that no earlier request had these bytes. Their ids are below the largest of the rows, which may be the
    planted one of a check.
    """
    below = max(2, int(token_ids(rows).max()))
    tokens = math.ceil(_RANDOM_BITS / math.log2(below))
    added = math.ceil(tokens / rows.shape[1])
    ids = np.random.default_rng().integers(0, below, (added, rows.shape[1]))
    return np.concatenate([rows, ids])


def mark_wants_tokens(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a copy of marked rows (int64 [b, L], L >= 1) with WANTS_TOKENS on the very first token."""
    marked = rows.copy()
    marked[0, 0] |= WANTS_TOKENS
    return marked


def mark_not_pooled(ids: NDArray[np.int64], prompt_length: int) -> NDArray[np.int64]:
    """Return a copy of `ids` (int64 [L]) with NOT_POOLED on the first `prompt_length` tokens."""
    marked = ids.copy()
    marked[:prompt_length] |= NOT_POOLED
    return marked


def mark_routed(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a copy of `ids` (int64 [L]) with ROUTED on every token."""
    return ids | ROUTED


def token_ids(elements: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the ids without flags, of the same shape and dtype."""
    return elements & ((1 << TOKEN_ID_BITS) - 1)


def past_cache(row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the row as int64 [1, L] in bytes that no earlier request had.

    ROW_START, which the graph ignores, is set on random tokens.
    """
    marks = np.random.default_rng().integers(0, 2, (1, row.size)) * ROW_START
    return mark_past_cache(row.reshape(1, -1) | marks)
