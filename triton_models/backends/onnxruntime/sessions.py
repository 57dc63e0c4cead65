"""The engines that can run `model.onnx` on a CPU (or CUDA), behind one method.

The backend's stub and the converter import this module. It knows nothing about batching or choosing.
"""

import os
import sys
from collections.abc import Iterable
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
            OpenVINO can use it. `torch` has `fp16` and `bf16`, on a GPU (`torch_session`).
    """

    engine: Literal["onnxruntime", "openvino", "torch"]
    precision: Literal["fp32", "bf16-mixed", "bf16", "fp16"]

    def __str__(self) -> str:
        return f"{self.engine}:{self.precision}"


DEFAULT = EngineName("onnxruntime", "fp32")
ENGINES = (
    DEFAULT,
    EngineName("openvino", "fp32"),
    EngineName("openvino", "bf16-mixed"),
    EngineName("openvino", "bf16"),
)
"""The engines of a CPU."""

TORCH_ENGINES = (EngineName("torch", "fp16"), EngineName("torch", "bf16"))
"""The engines of a GPU, beside ONNX Runtime on CUDA."""

CPU = "cpu"
"""The name of a device that is no GPU; the others are `cuda:0` and so on."""

CUDA = "CUDAExecutionProvider"


def parse_engine(text: str) -> EngineName:
    """Return the engine named `engine:precision`.

    Raises:
        UnknownEngine: There is no such engine; the message lists those there are.
    """
    for name in ENGINES + TORCH_ENGINES:
        if str(name) == text:
            return name
    raise UnknownEngine(f"must be auto or one of {', '.join(map(str, ENGINES + TORCH_ENGINES))}")


def fixed_engine() -> EngineName | None:
    """Return the engine that ENGINE names, or None for auto."""
    name = os.environ.get("ENGINE", "auto")
    return None if name == "auto" else parse_engine(name)


def fixed_on_cpu() -> EngineName | None:
    """Return as `fixed_engine`; in place of torch, which is for a GPU, the default engine."""
    fixed = fixed_engine()
    return DEFAULT if fixed in TORCH_ENGINES else fixed


class Session(Protocol):
    """One open text model."""

    def run(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """Embed int64 [total] ids of int32 [batch] lengths: float32 [batch, D].

        As many threads as there are streams may call this at once.
        """


def open_onnxruntime(path: Path, options: Any, device: str) -> Any:  # noqa: ANN401 - without annotations
    """Open an `InferenceSession`.

    Args:
        path: Path of `model.onnx`.
        options: `SessionOptions` with the number of threads.
        device: A GPU is used if this build has CUDA.
    """
    options.inter_op_num_threads = 1
    # Idle threads that spin would take the cores from the gateway and from Triton.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if device != CPU and CUDA in onnxruntime.get_available_providers():
        providers.insert(0, (CUDA, {"device_id": int(device.partition(":")[2])}))
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


def main_output(names: Iterable[str]) -> str:
    """Return the output of a graph that has one row for each input: vectors of texts, or logits of pairs."""
    (name,) = (name for name in names if name != TOKENS)
    return name


class OnnxRuntimeSession:
    """A text model in ONNX Runtime; all streams share `threads`, and a GPU is used if this build has CUDA."""

    def __init__(self, path: Path, threads: int, streams: int = 1, device: str = CPU) -> None:
        options = onnxruntime.SessionOptions()
        # Each caller's thread works beside the pool, so one thread means no pool at all.
        options.intra_op_num_threads = max(1, threads - streams + 1)
        # ONNX Runtime would keep a plan for every shape, and every ragged batch is a new shape.
        options.enable_mem_pattern = False
        self._session = open_onnxruntime(path, options, device)
        self._main = main_output(output.name for output in self._session.get_outputs())

    def run(
        self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32], output: str | None = None
    ) -> NDArray[np.float32]:
        """As `Session.run`; for the output TOKENS, return float32 [total, H]."""
        feed = {"input_ids": input_ids, "item_shape": lengths.reshape(-1, 1)}
        result: NDArray[np.float32] = self._session.run([output or self._main], feed)[0]
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


def open_session(path: Path, threads: int, name: EngineName, streams: int = 1, device: str = CPU) -> Session:
    """Open a text model on the engine `name`; `streams` concurrent runs share `threads` and the weights.

    Raises:
        RuntimeError, ImportError: The engine cannot run the model here.
    """
    if name.engine == "torch":
        # The import takes seconds and hundreds of megabytes.
        from triton_models.backends.onnxruntime.torch_session import TorchTexts

        return TorchTexts(path.parent, device, name.precision)
    if name.engine == "openvino" and device == CPU:
        return OpenVinoSession(path, threads, name.precision, streams)
    return OnnxRuntimeSession(path, threads, streams, device)


def has_bfloat16() -> bool:
    """Return whether the CPU itself computes in bfloat16, rather than emulating it slowly."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def has_gpu() -> bool:
    """Return whether torch can compute on a GPU."""
    import torch

    return bool(torch.cuda.is_available())


def problem_of(engine: str) -> str | None:
    """Return why ENGINE cannot have this value on this machine, or None if it can."""
    try:
        name = DEFAULT if engine == "auto" else parse_engine(engine)
    except UnknownEngine as error:
        return str(error)
    if name.engine == "torch":
        return None if has_gpu() else f"{name} needs a GPU; use auto"
    if name.precision == "fp32" or has_bfloat16():
        return None
    return f"{name} needs a CPU with bfloat16, which this one lacks; use auto or {name.engine}:fp32"


if __name__ == "__main__":
    # The gateway imports no engine; it runs this script instead.
    sys.stdout.write(problem_of(sys.argv[1]) or "")
