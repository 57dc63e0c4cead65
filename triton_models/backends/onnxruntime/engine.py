"""Runs a model by the text model contract: ragged batches of any size within a bound of memory.

Used by the backend's stub and by the converter's check, so that what is checked is what serves.
Imports no torch.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triton_models.backends.onnxruntime.sessions import DEFAULT, EngineName, open_session

PADDED_TOKENS = 16384
"""Rows times the longest row of one run: bounds the memory that attention takes."""


class Engine:
    """One open model.

    model_path: `model.onnx`. threads: of one run, at least 1. name: what computes it. gpu: use CUDA
    where ONNX Runtime offers it.
    """

    def __init__(
        self, model_path: Path, threads: int, name: EngineName = DEFAULT, *, gpu: bool = False
    ) -> None:
        self._session = open_session(model_path, threads, name, gpu=gpu)

    def run(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """Embed a ragged batch.

        input_ids: int64 [total], the rows one after another, flags included.
        lengths: int32 [batch], tokens of each row, each at least 1, adding up to total.
        Returns float32 [batch, D] in the order of `lengths`.

        Raises:
            ValueError: no rows, or lengths that do not fit input_ids.
        """
        if lengths.size == 0 or lengths.min() < 1 or int(lengths.sum()) != input_ids.size:
            raise ValueError("lengths must be positive and add up to the number of input_ids")
        if lengths.size * int(lengths.max()) <= PADDED_TOKENS:
            return self._session.run(input_ids, lengths)
        starts = np.concatenate(([0], np.cumsum(lengths)))
        embeddings: NDArray[np.float32] | None = None
        for rows in sub_batches(lengths):
            ids = np.concatenate([input_ids[starts[row] : starts[row + 1]] for row in rows])
            part = self._session.run(ids, lengths[rows])
            if embeddings is None:
                embeddings = np.empty((lengths.size, part.shape[1]), np.float32)
            embeddings[rows] = part
        assert embeddings is not None
        return embeddings


def sub_batches(lengths: NDArray[np.int32], padded_tokens: int = PADDED_TOKENS) -> list[NDArray[np.intp]]:
    """Row numbers of each run, every row once.

    Rows of like length go together; rows times the longest stays within `padded_tokens`, a row that
    is longer by itself runs alone.
    """
    order = np.argsort(lengths, kind="stable")
    groups = []
    start = 0
    for end in range(1, order.size):
        if (end + 1 - start) * int(lengths[order[end]]) > padded_tokens:
            groups.append(order[start:end])
            start = end
    groups.append(order[start:])
    return groups
