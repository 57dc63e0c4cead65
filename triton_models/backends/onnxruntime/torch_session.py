"""The torch engine: packed graphs in half precision on a GPU, without padding.

Small batches run as CUDA graphs where these were measured to be faster. On a CPU, which only tests use, the
same code runs with an exact attention. It imports torch.
"""

import logging
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from triton_models.backends.onnxruntime.buckets import Bucket, bucket_for, buckets, filled
from triton_models.backends.onnxruntime.packed_files import read
from triton_models.backends.onnxruntime.packed_program import Program

MOST_TOKENS = 32768
"""The most tokens of one run, to bound the memory of the layers' results; a longer row runs alone."""

IMAGE_SIZES = (1, 2, 4, 8, 16, 32)
"""The numbers of images that CUDA graphs are tried for."""

WORTHWHILE = 0.95
"""The largest share of the time without a CUDA graph that one may take, as it needs memory."""

_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_WARM_UPS = 3
_ROUNDS = 5

Size = TypeVar("Size", bound=Hashable)

log = logging.getLogger(__name__)


class CudaGraph:
    """One program recorded for inputs of one size; its memory is shared with the other sizes.

    Args:
        program: The program.
        inputs: Tensors on the GPU, which later runs overwrite.
        pool: The memory; None for a new one.
    """

    def __init__(self, program: Program, inputs: Sequence[Tensor], pool: "CudaGraph | None") -> None:
        self._inputs = inputs
        # The first runs allocate workspaces and choose kernels, which must not be recorded.
        side = torch.cuda.Stream(program.device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(program.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                program(*inputs)
        torch.cuda.current_stream(program.device).wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool._graph.pool() if pool else None):
            self._output = program(*inputs)

    def run(self, *given: NDArray[np.generic]) -> Tensor:
        """Return the output for the first inputs given; the next run of any size overwrites it."""
        for tensor, array in zip(self._inputs, given, strict=False):
            tensor.copy_(torch.from_numpy(array))
        self._graph.replay()
        return self._output


class CudaGraphs(Generic[Size]):
    """The sizes, from the smallest on, for which a CUDA graph was measured to be faster; none on a CPU.

    Args:
        program: The program.
        sizes: Sizes to try, the smallest first.
        inputs: Makes inputs of a size.
    """

    def __init__(
        self, program: Program, sizes: Sequence[Size], inputs: Callable[[Size], tuple[Tensor, ...]]
    ) -> None:
        self.of: dict[Size, CudaGraph] = {}
        if program.device.type != "cuda":
            return
        last: CudaGraph | None = None
        with torch.cuda.device(program.device):
            for size in sizes:
                given = inputs(size)
                graph = CudaGraph(program, given, last)
                plain = _seconds(lambda given=given: program(*given))  # type: ignore[misc]
                # Larger sizes gain less: launching kernels takes the same time, computing takes longer.
                if _seconds(graph.run) > WORTHWHILE * plain:
                    break
                self.of[size] = last = graph


class TorchTexts:
    """A packed text model; the arguments are those of `Program`, with the name of a precision."""

    def __init__(self, directory: Path, device: str, precision: str) -> None:
        self._program = Program(directory, torch.device(device), _TYPES[precision])
        limit: int | None = read(directory)["longest"]
        self._graphs = CudaGraphs(self._program, buckets(limit), self._example)
        self._sizes = list(self._graphs.of)
        self.graphs = [bucket.tokens for bucket in self._sizes]

    def run(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """As `sessions.Session.run`, for one caller at a time."""
        ends = np.cumsum(lengths)
        starts = ends - lengths
        parts = [
            self._run(input_ids[starts[first] : ends[last - 1]], lengths[first:last])
            for first, last in runs(lengths)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        bucket = bucket_for(self._sizes, lengths)
        if bucket is not None:
            ids, rows = filled(input_ids, lengths, bucket)
            return _on_host(self._graphs.of[bucket].run(ids, rows.reshape(-1, 1))[: lengths.size])
        return _on_host(self._program(*self._inputs(input_ids, lengths, int(lengths.max()))))

    def _inputs(
        self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32], longest: int
    ) -> tuple[Tensor, ...]:
        device = self._program.device
        return (
            torch.from_numpy(input_ids).to(device),
            torch.from_numpy(lengths.reshape(-1, 1)).to(device),
            torch.arange(longest, device=device),
        )

    def _example(self, bucket: Bucket) -> tuple[Tensor, ...]:
        ids, rows = filled(np.zeros(0, np.int64), np.zeros(0, np.int32), bucket)
        return self._inputs(ids, rows, bucket.longest)


class TorchImages:
    """An image tower; the arguments are those of `TorchTexts`."""

    def __init__(self, directory: Path, device: str, precision: str) -> None:
        self._program = Program(directory, torch.device(device), _TYPES[precision])
        shape: list[int] = read(directory)["image"]

        def example(images: int) -> tuple[Tensor, ...]:
            return (torch.zeros(images, *shape, dtype=torch.uint8, device=self._program.device),)

        self._graphs = CudaGraphs(self._program, IMAGE_SIZES, example)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As `image_engine.ImageSession.run`."""
        count = len(images)
        size = next((size for size in self._graphs.of if size >= count), None)
        if size is None:
            return _on_host(self._program(torch.from_numpy(images).to(self._program.device)))
        padded = np.zeros((size, *images.shape[1:]), np.uint8)
        padded[:count] = images
        return _on_host(self._graphs.of[size].run(padded)[:count])


def runs(lengths: NDArray[np.int32], most: int = MOST_TOKENS) -> Iterator[tuple[int, int]]:
    """Yield the rows of each run, from and to before, in their order and with at most `most` tokens."""
    first = tokens = 0
    for row, length in enumerate(lengths.tolist()):
        if row > first and tokens + length > most:
            yield first, row
            first, tokens = row, 0
        tokens += length
    yield first, lengths.size


def _on_host(vectors: Tensor) -> NDArray[np.float32]:
    found: NDArray[np.float32] = vectors.to("cpu", torch.float32).numpy()
    return found


def _seconds(work: Callable[[], object]) -> float:
    """Return the median time of a run on the current GPU, after one that is not counted."""
    taken = []
    for _ in range(_ROUNDS + 1):
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken[1:]))
