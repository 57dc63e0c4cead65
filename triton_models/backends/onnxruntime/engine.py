"""Runs `model.onnx` by the text model contract.

Imported by the backend's stub from its own directory and by the converter's check, so that what is
checked is what serves. Imports nothing of the project and no torch.
"""

import os
from pathlib import Path

# From 1.29 on the official builds report models and machine to Microsoft, from the import on, if not told.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from numpy.typing import NDArray

PADDED_TOKENS = 16384
"""Rows times the longest row of one run: bounds the memory that attention takes."""


class Engine:
    """One model on ONNX Runtime.

    model_path: `model.onnx`. threads: of one run, at least 1. gpu: use CUDA where this build of
    ONNX Runtime offers it.
    """

    def __init__(self, model_path: Path, threads: int, *, gpu: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # One plan is kept for every shape ever seen, and every ragged batch is a new shape.
        options.enable_mem_pattern = False
        # Idle threads that spin take the cores from the front end and from Triton.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(str(model_path), options, providers=_providers(gpu=gpu))
        self._output = self._session.get_outputs()[0].name

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
            return self._run(input_ids, lengths)
        starts = np.concatenate(([0], np.cumsum(lengths)))
        embeddings: NDArray[np.float32] | None = None
        for rows in sub_batches(lengths):
            ids = np.concatenate([input_ids[starts[row] : starts[row + 1]] for row in rows])
            part = self._run(ids, lengths[rows])
            if embeddings is None:
                embeddings = np.empty((lengths.size, part.shape[1]), np.float32)
            embeddings[rows] = part
        assert embeddings is not None
        return embeddings

    def _run(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        feed = {"input_ids": input_ids, "item_shape": lengths.astype(np.int32, copy=False).reshape(-1, 1)}
        result: NDArray[np.float32] = self._session.run([self._output], feed)[0]
        return result


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


def _providers(*, gpu: bool) -> list[str]:
    if gpu and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]
    return ["CPUExecutionProvider"]
