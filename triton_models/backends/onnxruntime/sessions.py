"""The engines that can run `model.onnx` on a CPU (or CUDA), behind one method.

The backend's stub and the converter import this module. It knows nothing about batching or choosing.
"""

import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, Literal, Protocol

# ONNX Runtime sends telemetry to its maker, and opens a database for it on import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from triton_models.backends.onnxruntime.openvino_bf16 import keep_fp32_where_it_counts

POOLED, TOKENS = "sentence_embedding", "token_embeddings"
"""The outputs of a text model: float32 [batch, D] and [total, H]. Older and CLIP graphs lack the second.

The first one has another name in graphs of other kinds, and is also float32 [batch, D].
"""


_first_run = Lock()
"""The lock of a session's first run, as the first run of a process sets up OpenVINO's bindings. Two at once
would deadlock: one holds a C++ guard and waits for Python's lock, the other holds Python's lock."""


class UnknownEngine(ValueError):
    """There is no engine of that name."""


@dataclass(frozen=True)
class EngineName:
    """An engine and its precision, as text `engine:precision`.

    Attributes:
        engine: The library.
        precision: `fp32` everywhere; `bf16-mixed`, bfloat16 in matrix products with weights and between them
            but fp32 in the residual stream and in normalisation (`openvino_bf16`); `bf16`, bfloat16 wherever
            OpenVINO can use it.
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
    """Return the engine named `engine:precision`.

    Raises:
        UnknownEngine: There is no such engine; the message lists those there are.
    """
    for name in ENGINES:
        if str(name) == text:
            return name
    raise UnknownEngine(f"must be auto or one of {', '.join(map(str, ENGINES))}")


class Session(Protocol):
    """One open text model."""

    def run(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """Embed int64 [total] ids of int32 [batch] lengths: float32 [batch, D].

        As many threads as there are streams may call this at once.
        """


def open_onnxruntime(path: Path, options: Any, *, gpu: bool) -> Any:  # noqa: ANN401 - without annotations
    """Open an `InferenceSession`.

    Args:
        path: Path of `model.onnx`.
        options: `SessionOptions` with the number of threads.
        gpu: Use CUDA if this build has it.
    """
    options.inter_op_num_threads = 1
    # Idle threads that spin would take the cores from the gateway and from Triton.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CPUExecutionProvider"]
    if gpu and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    return onnxruntime.InferenceSession(str(path), options, providers=providers)


def compile_openvino(path: Path, threads: int, precision: str, streams: int = 1) -> Any:  # noqa: ANN401 - without annotations
    """Return a `CompiledModel` of the CPU plugin without the output TOKENS; all streams share `threads`."""
    # The import takes half a second, and an operator may have chosen not to use OpenVINO.
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    for result in model.get_results():
        if TOKENS in result.get_output_tensor(0).get_names():
            # Nobody reads these vectors, and every run would copy them.
            model.remove_result(result)
    if precision == "bf16-mixed":
        model = keep_fp32_where_it_counts(core, model)
    hints: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        # The gateway and other models share the cores.
        "ENABLE_CPU_PINNING": False,
        # The cache is by shape, and every ragged batch is a new shape. The default of 5,000 entries takes
        # gigabytes. 64 are as fast; without any, single texts take half as long again.
        "CPU_RUNTIME_CACHE_CAPACITY": 64,
    }
    return core.compile_model(model, "CPU", hints)


class OnnxRuntimeSession:
    """A text model in ONNX Runtime; all streams share `threads`, and `gpu` uses CUDA if this build has it."""

    def __init__(self, path: Path, threads: int, streams: int = 1, *, gpu: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        # Each caller's thread works beside the pool, so one thread means no pool at all.
        options.intra_op_num_threads = max(1, threads - streams + 1)
        # ONNX Runtime would keep a plan for every shape, and every ragged batch is a new shape.
        options.enable_mem_pattern = False
        self._session = open_onnxruntime(path, options, gpu=gpu)
        outputs: list[str] = [output.name for output in self._session.get_outputs()]
        self._pooled = next(name for name in outputs if name != TOKENS)

    def run(
        self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32], output: str | None = None
    ) -> NDArray[np.float32]:
        """As `Session.run`; for the output TOKENS, return float32 [total, H]."""
        feed = {"input_ids": input_ids, "item_shape": lengths.reshape(-1, 1)}
        result: NDArray[np.float32] = self._session.run([output or self._pooled], feed)[0]
        return result


class OpenVinoSession:
    """A text model in OpenVINO's CPU plugin; all streams share `threads` and the weights."""

    def __init__(self, path: Path, threads: int, precision: str, streams: int = 1) -> None:
        compiled = compile_openvino(path, threads, precision, streams)
        self._output = compiled.output(0)
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
            # The tensor is the request's own memory, which the next run overwrites.
            result: NDArray[np.float32] = request.get_tensor(self._output).data.copy()
        finally:
            self._requests.put(request)
        return result


def open_session(
    path: Path, threads: int, name: EngineName, streams: int = 1, *, gpu: bool = False
) -> Session:
    """Open a text model on the engine `name`; `streams` concurrent runs share `threads` and the weights.

    Raises:
        RuntimeError, ImportError: The engine cannot run the model here.
    """
    if name.engine == "openvino" and not gpu:
        return OpenVinoSession(path, threads, name.precision, streams)
    return OnnxRuntimeSession(path, threads, streams, gpu=gpu)


def has_bfloat16() -> bool:
    """Return whether the CPU itself computes in bfloat16, rather than emulating it slowly."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def problem_of(engine: str) -> str | None:
    """Return why ENGINE cannot have this value on this machine, or None if it can."""
    try:
        name = DEFAULT if engine == "auto" else parse_engine(engine)
    except UnknownEngine as error:
        return str(error)
    if name.precision == "fp32" or has_bfloat16():
        return None
    return f"{name} needs a CPU with bfloat16, which this one lacks; use auto or {name.engine}:fp32"


if __name__ == "__main__":
    # The gateway imports no engine; it runs this script instead.
    sys.stdout.write(problem_of(sys.argv[1]) or "")
