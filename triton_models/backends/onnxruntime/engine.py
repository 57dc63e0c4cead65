"""Run a text model by the contract: ragged batches of any size within bounded memory.

The backend's stub and the converter's check both use this module, so the check covers the code that serves.
It does not import torch.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triton_models.backends.onnxruntime.sessions import (
    CPU,
    DEFAULT,
    TOKENS,
    EngineName,
    OnnxRuntimeSession,
    open_session,
)
from triton_models.backends.onnxruntime.sub_batches import Rows, sub_batches


class Engine:
    """One open text model.

    With more than one stream, the runs of a batch need not wait for each other's threads. A single text still
    gets all threads, in a second session; the weights of products are then in memory twice.

    Args:
        model_path: Path of `model.onnx`.
        threads: Threads of all runs together, at least 1.
        name: Engine that computes the model.
        streams: Concurrent runs, from 1 to `threads`.
        device: Where it runs, `cpu` or `cuda:0` and so on.
    """

    def __init__(
        self,
        model_path: Path,
        threads: int,
        name: EngineName = DEFAULT,
        streams: int = 1,
        device: str = CPU,
    ) -> None:
        self._path, self._threads, self._device = model_path, threads, device
        self._whole = open_session(model_path, threads, name, device=device)
        # Torch pads nothing, and bounds its memory itself.
        self._is_cut = name.engine != "torch"
        self._for_tokens: OnnxRuntimeSession | None = None
        self._streams = streams
        self._pool: ThreadPoolExecutor | None = None
        if streams > 1:
            self._shared = open_session(model_path, threads, name, streams)
            self._pool = ThreadPoolExecutor(streams)

    def run(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """Embed a ragged batch.

        Args:
            input_ids: int64 [total], the rows one after another, flags included.
            lengths: int32 [batch], tokens of each row, each at least 1, adding up to total.

        Returns:
            float32 [batch, D] in the order of `lengths`.

        Raises:
            ValueError: There are no rows, or the lengths do not fit input_ids.
        """
        _check(input_ids, lengths)
        groups = sub_batches(lengths, self._streams) if lengths.size > 1 and self._is_cut else []
        if len(groups) < 2:
            return self._whole.run(input_ids, lengths)
        session = self._shared if self._pool else self._whole
        starts = np.cumsum(lengths) - lengths

        def run(rows: Rows) -> NDArray[np.float32]:
            ids = np.concatenate([input_ids[starts[row] : starts[row] + lengths[row]] for row in rows])
            return session.run(ids, lengths[rows])

        parts = list(self._pool.map(run, groups) if self._pool else map(run, groups))
        embeddings = np.empty((lengths.size, parts[0].shape[1]), np.float32)
        for rows, part in zip(groups, parts, strict=True):
            embeddings[rows] = part
        return embeddings

    def run_tokens(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """Embed every token of a ragged batch: float32 [total, H] in the order of `input_ids`.

        ONNX Runtime computes this in fp32, whatever engine `run` uses: pooling evens out the rounding of
        bfloat16, but a single token's vector does not. If `run` uses another engine, the first call opens
        ONNX Runtime, with a second copy of the weights.

        Raises:
            ValueError: As for `run`.
            RuntimeError: The graph has no such output, or memory is short.
        """
        _check(input_ids, lengths)
        session = self._token_session()
        starts = np.cumsum(lengths) - lengths
        vectors = None
        for rows in sub_batches(lengths):
            places = np.concatenate([np.arange(starts[row], starts[row] + lengths[row]) for row in rows])
            part = session.run(input_ids[places], lengths[rows], TOKENS)
            if vectors is None:
                vectors = np.empty((input_ids.size, part.shape[1]), np.float32)
            vectors[places] = part
        assert vectors is not None
        return vectors

    def _token_session(self) -> OnnxRuntimeSession:
        if isinstance(self._whole, OnnxRuntimeSession):
            return self._whole
        if self._for_tokens is None:
            self._for_tokens = OnnxRuntimeSession(self._path, self._threads, device=self._device)
        return self._for_tokens


def _check(input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> None:
    if lengths.size == 0 or lengths.min() < 1 or int(lengths.sum()) != input_ids.size:
        raise ValueError("lengths must be positive and add up to the number of input_ids")
