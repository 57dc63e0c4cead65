"""Runs a model by the text model contract: ragged batches of any size within a bound of memory.

Used by the backend's stub and by the converter's check, so that what is checked is what serves.
Imports no torch.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from triton_models.backends.onnxruntime.sessions import (
    DEFAULT,
    TOKENS,
    EngineName,
    OnnxRuntimeSession,
    open_session,
)
from triton_models.backends.onnxruntime.sub_batches import Rows, sub_batches


class Engine:
    """One open model.

    model_path: `model.onnx`. threads: of all runs together, at least 1. name: what computes it.
    streams: runs at a time, from 1 to `threads`; more than one are for batches, which then need not
    wait for each other's threads, and a single text still gets all threads by a session of its own: the
    weights of products are in memory twice. gpu: use CUDA where ONNX Runtime offers it.
    """

    def __init__(
        self,
        model_path: Path,
        threads: int,
        name: EngineName = DEFAULT,
        streams: int = 1,
        *,
        gpu: bool = False,
    ) -> None:
        self._path, self._threads = model_path, threads
        self._whole = open_session(model_path, threads, name, gpu=gpu)
        self._for_tokens: OnnxRuntimeSession | None = None
        self._streams = streams
        self._pool: ThreadPoolExecutor | None = None
        if streams > 1:
            self._shared = open_session(model_path, threads, name, streams)
            self._pool = ThreadPoolExecutor(streams)

    def run(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """Embed a ragged batch.

        input_ids: int64 [total], the rows one after another, flags included.
        lengths: int32 [batch], tokens of each row, each at least 1, adding up to total.
        Returns float32 [batch, D] in the order of `lengths`.

        Raises:
            ValueError: no rows, or lengths that do not fit input_ids.
        """
        _check(input_ids, lengths)
        groups = sub_batches(lengths, self._streams) if lengths.size > 1 else []
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
        """The vectors of the tokens of a ragged batch, float32 [total, H] in the order of `input_ids`.

        By ONNX Runtime in fp32, whatever engine `run` has: pooling evens out what bfloat16 rounds, a single
        token does not. Where that is another engine it is opened by the first call, a second copy of the
        weights; those who never ask do not pay for it.

        Raises:
            ValueError: as `run`. RuntimeError: the graph has no such output, or there is no memory.
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
            self._for_tokens = OnnxRuntimeSession(self._path, self._threads)
        return self._for_tokens


def _check(input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> None:
    if lengths.size == 0 or lengths.min() < 1 or int(lengths.sum()) != input_ids.size:
        raise ValueError("lengths must be positive and add up to the number of input_ids")
