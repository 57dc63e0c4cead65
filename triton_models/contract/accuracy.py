"""The accuracy bounds of the HTTP contract, and the checks of vectors that go with them.

They are used at conversion, when an engine is chosen, at the end of each load, and for every answer.
"""

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

LEAST_COSINE = 0.9999
"""The least cosine to the reference, for every text, whatever other texts share its batch."""

LEAST_ALONE = 0.99999
"""The least cosine between the vectors of a text computed alone and among others."""


Precision = Literal["fp32", "fp16"]
"""The precision of the weights in `model.onnx`; fp16 is for GPUs, and only the operator chooses it."""


class Bounds(NamedTuple):
    """The least agreement that is accepted: a cosine of vectors, or minus the largest difference of logits.

    Attributes:
        reference: Between an output and the reference's.
        alone: Between the outputs for a text computed alone and among others.
        of_logits: Whether the outputs are logits of a cross-encoder.
    """

    reference: float
    alone: float
    of_logits: bool = False

    def agreement(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the agreement of each row of `a` (float32 [n, D]) with the same row of `b`, float64 [n]."""
        return -differences(a, b) if self.of_logits else cosines(a, b)

    def describe(self, found: float, least: float) -> str:
        """Return a clause about an agreement that is below a bound."""
        if self.of_logits:
            return f"a logit differs by {-found:.6f}, at most {-least} is allowed"
        return f"cosine {found:.6f}, at least {least} is needed"


BOUNDS: dict[Precision, Bounds] = {
    "fp32": Bounds(LEAST_COSINE, LEAST_ALONE),
    "fp16": Bounds(0.999, 0.9999),
}
"""The bounds of vectors."""

LOGIT_BOUNDS: dict[Precision, Bounds] = {
    "fp32": Bounds(-1e-3, -1e-4, of_logits=True),
    "fp16": Bounds(-2e-2, -1e-2, of_logits=True),
}
"""The bounds of logits. They keep the order of all pairs whose logits differ by more than twice as much."""


_PRODUCT_NUMBERS = 8192
"""The most numbers for which one thread computes the dot product; above, threads have to be woken for it."""


def first_not_finite(vectors: NDArray[np.float32]) -> int | None:
    """Return the first row of [n, ...] that holds NaN or inf, or None if all rows are finite.

    The usual case, a single finite vector, takes less than 1 us.
    """
    # A sum of squares is finite only if every number is. Numbers above 1e19 overflow it although they are
    # finite, so the second check decides.
    if vectors.size <= _PRODUCT_NUMBERS and math.isfinite(np.vdot(vectors, vectors)):
        return None
    finite = np.isfinite(vectors).reshape(len(vectors), -1).all(1)
    return None if finite.all() else int(finite.argmin())


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each row of `a` to the same row of `b`, float64 [n].

    Two zero vectors count as equal (1); a zero vector and another one do not (0). A row with NaN or inf
    gives -1.
    """
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    norms_a, norms_b = np.linalg.norm(a64, axis=1), np.linalg.norm(b64, axis=1)
    product = norms_a * norms_b
    cosine: NDArray[np.float64] = np.divide(
        (a64 * b64).sum(1), product, out=np.zeros_like(product), where=product > 0
    )
    cosine[(norms_a == 0) & (norms_b == 0)] = 1.0
    cosine[~np.isfinite(a64).all(1) | ~np.isfinite(b64).all(1)] = -1.0
    return cosine


def differences(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the largest absolute difference in each row of `a` and `b`, float64 [n]; inf for NaN or inf."""
    found: NDArray[np.float64] = np.abs(a.astype(np.float64) - b.astype(np.float64)).max(axis=1)
    found[~np.isfinite(found)] = np.inf
    return found
