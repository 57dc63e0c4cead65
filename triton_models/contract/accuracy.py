"""How near a vector must be to another, by the bounds of the HTTP contract, and whether it is finite.

Used at conversion, when an engine is chosen, at the end of each load, and for every answer.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST_COSINE = 0.9999
"""To the reference, for every text, whatever else shares its batch."""

LEAST_ALONE = 0.99999
"""Between the same text alone and among others."""


Precision = Literal["fp32", "fp16"]
"""Of the weights in `model.onnx`; fp16 is for GPUs, and only ever chosen by the operator."""


class Bounds(NamedTuple):
    """Least cosines: to the reference, and between a text alone and among others."""

    reference: float
    alone: float


BOUNDS: dict[Precision, Bounds] = {
    "fp32": Bounds(LEAST_COSINE, LEAST_ALONE),
    "fp16": Bounds(0.999, 0.9999),
}


_PRODUCT_NUMBERS = 8192
"""Above, the product is shared among threads that have to be woken."""


def first_not_finite(vectors: NDArray[np.float32]) -> int | None:
    """The first row of [n, ...] that holds NaN or inf; None where all are finite, known in under 1 us."""
    # A sum of squares is finite only where every number is. Numbers above 1e19 are too large for it: the
    # second look decides.
    if vectors.size <= _PRODUCT_NUMBERS and math.isfinite(np.vdot(vectors, vectors)):
        return None
    finite = np.isfinite(vectors).reshape(len(vectors), -1).all(1)
    return None if finite.all() else int(finite.argmin())


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Row by row, [n]. Two zero vectors are equal (1), one alone is not (0); no number is -1."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms_a, norms_b = np.linalg.norm(a64, axis=1), np.linalg.norm(b64, axis=1)
    product = norms_a * norms_b
    cosine: NDArray[np.float64] = np.divide(
        (a64 * b64).sum(1), product, out=np.zeros_like(product), where=product > 0
    )
    cosine[(norms_a == 0) & (norms_b == 0)] = 1.0
    cosine[~np.isfinite(a64).all(1) | ~np.isfinite(b64).all(1)] = -1.0
    return cosine
