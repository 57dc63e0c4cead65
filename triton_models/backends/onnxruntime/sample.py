"""The rows of `check.npz` by which the engines of a text model are measured and compared."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triton_models.contract.accuracy import BOUNDS, LOGIT_BOUNDS, Bounds


@dataclass(frozen=True)
class Sample:
    """Rows with their reference vectors, or with the logits of a cross-encoder.

    Attributes:
        rows: Ids, int64 [L] each.
        vectors: float32 [n, D].
        bounds: Those that an engine must keep to.
    """

    rows: list[NDArray[np.int64]]
    vectors: NDArray[np.float32]
    bounds: Bounds = BOUNDS["fp32"]

    @classmethod
    def of(cls, directory: Path) -> "Sample | None":
        """Return the sample that the converter left in `check.npz`, or None if there is none."""
        try:
            with np.load(directory / "check.npz", allow_pickle=False) as arrays:
                rows = np.split(arrays["input_ids"], np.cumsum(arrays["lengths"])[:-1])
                return cls(rows, arrays["embeddings"], _bounds(directory))
        except FileNotFoundError:
            return None


def _bounds(directory: Path) -> Bounds:
    """Return the bounds of the model in `directory`."""
    try:
        record = json.loads((directory / "model.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return BOUNDS["fp32"]
    kind, precision = record.get("kind"), record.get("precision", "fp32")
    return (LOGIT_BOUNDS if kind == "cross-encoder" else BOUNDS)[precision]
