"""The engines that can run `model.onnx` on a CPU (or CUDA), behind one method.

Imported by the backend's stub and by the converter. Knows nothing about batching or choosing.
"""

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, Literal, Protocol

# ONNX Runtime reports to its maker what is run, and opens a database for that when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from triton_models.backends.onnxruntime.openvino_bf16 import keep_fp32_where_it_counts

POOLED, TOKENS = "sentence_embedding", "token_embeddings"
"""Outputs of a text model's graph: float32 [batch, D], and [total, H], which older and CLIP's graphs lack."""


_first_run = Lock()
"""The first run of a process sets up OpenVINO's bindings. Two at once would wait for each other for ever:
one has a guard of C++ and waits for Python's lock, the other has that lock."""


class UnknownEngine(ValueError):
    """No engine of that name."""


@dataclass(frozen=True)
class EngineName:
    """An engine and the precision it computes in; as text `engine:precision`.

    fp32 everywhere; bf16-mixed: bfloat16 in matrix products with weights and between them, fp32 in the
    residual stream and in normalisation (`mixed_precision`); bf16: everything that OpenVINO can.
    """

    engine: Literal["onnxruntime", "openvino"]
    precision: Literal["fp32", "bf16-mixed", "bf16"]

    def __str__(self) -> str:
        return f"{self.engine}:{self.precision}"


DEFAULT = EngineName("onnxruntime", "fp32")
ENGINES = (
    DEFAULT,
    EngineName("openvino", "fp32"),
    EngineName("openvino", "bf16-mixed"),
    EngineName("openvino", "bf16"),
)


def parse_engine(text: str) -> EngineName:
    """The engine named `engine:precision`.

    Raises:
        UnknownEngine: the text names those there are.
    """
    for name in ENGINES:
        if str(name) == text:
            return name
    raise UnknownEngine(f"must be auto or one of {', '.join(map(str, ENGINES))}")


class Session(Protocol):
    """One open model."""

    def run(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """Int64 [total] and int32 [batch] to float32 [batch, D]; from as many threads at once as streams."""


def open_onnxruntime(path: Path, options: Any, *, gpu: bool) -> Any:  # noqa: ANN401 - without annotations
    """An `InferenceSession`; options: `SessionOptions` with the number of threads.

    gpu: on CUDA where this build offers it.
    """
    options.inter_op_num_threads = 1
    # Idle threads that spin take the cores from the front end and from Triton.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if gpu and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    return onnxruntime.InferenceSession(str(path), options, providers=providers)


def compile_openvino(path: Path, threads: int, precision: str, streams: int = 1) -> Any:  # noqa: ANN401 - without annotations
    """A `CompiledModel` of the CPU plugin, without the vectors of tokens; threads: of all streams."""
    # Imported here: it takes half a second, and an operator may have chosen to do without.
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    for result in model.get_results():
        if TOKENS in result.get_output_tensor(0).get_names():
            # Nobody fetches them here, and they would be copied out of every run.
            model.remove_result(result)
    if precision == "bf16-mixed":
        model = keep_fp32_where_it_counts(core, model)
    hints: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        # The cores are shared with the front end and with other models.
        "ENABLE_CPU_PINNING": False,
        # Of the shapes met, and every ragged batch is a new one. By default 5,000 are kept, which take
        # gigabytes; 64 are as fast, none costs single texts half as much again.
        "CPU_RUNTIME_CACHE_CAPACITY": 64,
    }
    return core.compile_model(model, "CPU", hints)


class OnnxRuntimeSession:
    """ONNX Runtime; threads: of all streams. gpu: on CUDA where this build offers it."""

    def __init__(self, path: Path, threads: int, streams: int = 1, *, gpu: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        # Each caller works itself beside the pool, so that one thread means no pool at all.
        options.intra_op_num_threads = max(1, threads - streams + 1)
        # One plan is kept for every shape ever seen, and every ragged batch is a new shape.
        options.enable_mem_pattern = False
        self._session = open_onnxruntime(path, options, gpu=gpu)

    def run(
        self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32], output: str = POOLED
    ) -> NDArray[np.float32]:
        """As `Session.run`; with the output TOKENS float32 [total, H]."""
        feed = {"input_ids": input_ids, "item_shape": lengths.reshape(-1, 1)}
        result: NDArray[np.float32] = self._session.run([output], feed)[0]
        return result


class OpenVinoSession:
    """OpenVINO's CPU plugin; threads: of all streams, which share the weights."""

    def __init__(self, path: Path, threads: int, precision: str, streams: int = 1) -> None:
        compiled = compile_openvino(path, threads, precision, streams)
        self._output = compiled.output(POOLED)
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            self._requests.put(compiled.create_infer_request())
        self._first_run: Lock | None = _first_run

    def run(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """As `Session.run`."""
        feed = {"input_ids": input_ids, "item_shape": lengths.reshape(-1, 1)}
        request = self._requests.get()
        try:
            with self._first_run or nullcontext():
                request.infer(feed, share_inputs=True)
            self._first_run = None
            # The request's own memory, overwritten by the next run.
            result: NDArray[np.float32] = request.get_tensor(self._output).data.copy()
        finally:
            self._requests.put(request)
        return result


def open_session(
    path: Path, threads: int, name: EngineName, streams: int = 1, *, gpu: bool = False
) -> Session:
    """The model on that engine; `streams` runs at a time share `threads` and one copy of the weights.

    Raises:
        RuntimeError, ImportError: the engine cannot run it here.
    """
    if name.engine == "openvino" and not gpu:
        return OpenVinoSession(path, threads, name.precision, streams)
    return OnnxRuntimeSession(path, threads, streams, gpu=gpu)


def has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16, rather than imitating it slowly."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def problem_of(engine: str) -> str | None:
    """Why ENGINE cannot say this on this machine; None where it can."""
    try:
        name = DEFAULT if engine == "auto" else parse_engine(engine)
    except UnknownEngine as error:
        return str(error)
    if name.precision == "fp32" or has_bfloat16():
        return None
    return f"{name} needs a CPU with bfloat16, which this one lacks; use auto or {name.engine}:fp32"


if __name__ == "__main__":
    # Asked by the front end, which imports no engine.
    sys.stdout.write(problem_of(sys.argv[1]) or "")
