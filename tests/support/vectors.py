"""Gets vectors over HTTP and compares them."""

from collections.abc import Sequence

import httpx
import numpy as np
from numpy.typing import NDArray

from tests.conftest import MINILM


def embed(client: httpx.Client, text: str | Sequence[str], model: str = MINILM) -> NDArray[np.float32]:
    answer = client.post("/infer_text", json={"model_name": model, "text": text})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["embedding"], dtype=np.float32)


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    left, right = np.atleast_2d(left).astype(np.float64), np.atleast_2d(right).astype(np.float64)
    lengths = np.linalg.norm(left, axis=1), np.linalg.norm(right, axis=1)
    norms, both_zero = lengths[0] * lengths[1], (lengths[0] == 0) & (lengths[1] == 0)
    return np.where(both_zero, 1.0, (left * right).sum(axis=1) / np.where(norms == 0, 1.0, norms))
