"""How near a vector must be to another: the bounds of the HTTP contract, for every check.

Used at conversion, when an engine is chosen, and at the end of each load.
"""

import numpy as np
from numpy.typing import NDArray

LEAST_COSINE = 0.9999
"""To the reference, for every text, whatever else shares its batch."""

LEAST_ALONE = 0.99999
"""Between the same text alone and among others."""


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
