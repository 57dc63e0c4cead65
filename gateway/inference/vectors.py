"""Forms of vectors: fewer dimensions, smaller numbers, bytes. Nothing here knows a model or a request.

Source of the quantisation: sentence-transformers, `util.quantize_embeddings`.
"""

import base64
import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gateway.errors import InvalidInput

Vectors = NDArray[np.float32]
Rows = NDArray[Any]

EmbeddingDtype = Literal["float32", "float16", "int8", "uint8", "binary", "ubinary"]

NOT_FINITE = "the model's vector of it is not finite; leave it out, or use another model"
"""Told of an input for which the model computes NaN or inf."""

_STEPS = 255


def unit_length(vectors: Vectors) -> Vectors:
    """Rows scaled to unit length; a row of zeros stays as it is. Float32 [n, D] in and out."""
    # In float64, where the squares of no float32 overflow or vanish.
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))[:, None]
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def cut(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` columns, scaled to unit length again: float32 [n, dimensions].

    Raises:
        InvalidInput: the vectors have fewer columns, or none are asked for.
    """
    if not 1 <= dimensions <= vectors.shape[1]:
        raise InvalidInput(f"dimensions: {dimensions}; the model's vectors have {vectors.shape[1]}")
    return unit_length(vectors[:, :dimensions])


def quantize(vectors: Vectors, dtype: EmbeddingDtype, ranges: NDArray[np.float32] | None = None) -> Rows:
    """The rows in another type: [n, D], or [n, ceil(D / 8)] for `binary` (int8) and `ubinary` (uint8).

    ranges: float32 [2, D], the least and the largest value of each column, for int8 and uint8; of the vectors
    themselves where not given.

    Raises:
        InvalidInput: the ranges do not fit, or one vector alone is to give them; float16 cannot hold a value.
    """
    if dtype == "float32":
        return vectors
    if dtype == "float16":
        return _half(vectors)
    if dtype in ("int8", "uint8"):
        ranges = calibrate(vectors) if ranges is None else ranges
        if ranges.shape != (2, vectors.shape[1]):
            raise InvalidInput(
                f"ranges: 2 lists of {vectors.shape[1]} numbers are needed, one for each dimension; "
                f"these have {ranges.shape[1]}"
            )
        return _to_steps(vectors, dtype, ranges)
    packed = np.packbits(vectors > 0, axis=-1)
    return packed if dtype == "ubinary" else (packed - 128).astype(np.int8)


def calibrate(vectors: Vectors) -> NDArray[np.float32]:
    """The ranges of vectors: float32 [2, D].

    Raises:
        InvalidInput: there is one vector only, which has none.
    """
    if len(vectors) < 2:
        raise InvalidInput(
            "embedding_dtype: int8 and uint8 need ranges, the least and the largest value of each dimension, "
            "or several inputs to take them from"
        )
    return np.vstack((vectors.min(axis=0), vectors.max(axis=0)))


def base64_rows(rows: Rows) -> list[str]:
    """The little-endian bytes of each row, as base64."""
    return [base64.b64encode(row).decode() for row in little_endian(rows)]


def little_endian(rows: Rows) -> Rows:
    """The rows in this byte order, one after another in memory; not copied where they are so already."""
    return np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))


def npy(rows: Rows) -> bytes:
    """A file of numpy's own format."""
    file = io.BytesIO()
    np.save(file, little_endian(rows), allow_pickle=False)
    return file.getvalue()


def _half(vectors: Vectors) -> Rows:
    with np.errstate(over="ignore"):
        half: Rows = vectors.astype(np.float16)
    if not np.isfinite(half).all():
        raise InvalidInput("embedding_dtype: a value is too large for float16; set normalize, or use float32")
    return half


def _to_steps(vectors: Rows, dtype: Literal["int8", "uint8"], ranges: Rows) -> Rows:
    """Each value as the number of its step between least and largest, of 256."""
    with np.errstate(over="ignore"):
        if not np.isfinite(ranges[1] - ranges[0]).all():
            # The ends are further apart than float32 reaches: all would be in the first step.
            vectors, ranges = vectors.astype(np.float64), ranges.astype(np.float64)
        starts = ranges[0]
        steps = (ranges[1] - starts) / _STEPS
        steps = np.where(steps == 0, 1, steps)
        # What overflows is beyond the ranges.
        numbers = np.clip(np.floor((vectors - starts) / steps), 0, _STEPS)
    rows: Rows = numbers.astype(np.uint8) if dtype == "uint8" else (numbers - 128).astype(np.int8)
    return rows
