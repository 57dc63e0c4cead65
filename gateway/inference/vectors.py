"""Converts vectors: to fewer dimensions, smaller numbers, or bytes. Independent of models and requests.

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
"""Error message for an input for which the model computes NaN or inf."""

_STEPS = 255


def unit_length(vectors: Vectors) -> Vectors:
    """Scale rows, float32 [n, D], to unit length; a row of zeros stays as it is."""
    # In float64, the square of a float32 neither overflows nor vanishes.
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))[:, None]
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def cut(vectors: Vectors, dimensions: int) -> Vectors:
    """Keep the first `dimensions` columns and scale the rows to unit length: float32 [n, dimensions].

    Raises:
        InvalidInput: `dimensions` is below 1, or the vectors have fewer columns.
    """
    if not 1 <= dimensions <= vectors.shape[1]:
        raise InvalidInput(f"dimensions: {dimensions}; the model's vectors have {vectors.shape[1]}")
    return unit_length(vectors[:, :dimensions])


def quantize(vectors: Vectors, dtype: EmbeddingDtype, ranges: NDArray[np.float32] | None = None) -> Rows:
    """Convert vectors to another type.

    Args:
        vectors: Float32 [n, D].
        dtype: The new type.
        ranges: Float32 [2, D], the smallest and the largest value of each column, for int8 and uint8. If not
            given, they are taken from the vectors.

    Returns:
        The rows, [n, D]; for `binary` (int8) and `ubinary` (uint8), [n, ceil(D / 8)].

    Raises:
        InvalidInput: The ranges do not fit, they would come from one vector, or float16 cannot hold a value.
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
    """Return the smallest and the largest value of each column: float32 [2, D].

    Raises:
        InvalidInput: There are fewer than two vectors.
    """
    if len(vectors) < 2:
        raise InvalidInput(
            "embedding_dtype: int8 and uint8 need ranges, the least and the largest value of each dimension, "
            "or several inputs to take them from"
        )
    return np.vstack((vectors.min(axis=0), vectors.max(axis=0)))


def base64_rows(rows: Rows) -> list[str]:
    """Return the little-endian bytes of each row as base64."""
    return [base64.b64encode(row).decode() for row in little_endian(rows)]


def little_endian(rows: Rows) -> Rows:
    """Return the rows in little-endian byte order, C-contiguous; copied only if necessary."""
    return np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))


def npy(rows: Rows) -> bytes:
    """Return the rows as a file in NumPy's .npy format."""
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
    """Map each value to one of 256 steps between the smallest and the largest value of its column."""
    with np.errstate(over="ignore"):
        if not np.isfinite(ranges[1] - ranges[0]).all():
            # The difference overflows float32, and every value would fall into the first step.
            vectors, ranges = vectors.astype(np.float64), ranges.astype(np.float64)
        starts = ranges[0]
        steps = (ranges[1] - starts) / _STEPS
        steps = np.where(steps == 0, 1, steps)
        # A value that overflows is outside the ranges and is clipped.
        numbers = np.clip(np.floor((vectors - starts) / steps), 0, _STEPS)
    rows: Rows = numbers.astype(np.uint8) if dtype == "uint8" else (numbers - 128).astype(np.int8)
    return rows
