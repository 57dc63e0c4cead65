"""The engines that can run `model.onnx` on a CPU (or CUDA), behind one method.

Imported by the backend's stub and by the converter. Knows nothing about batching or choosing.
"""

import os
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

# ONNX Runtime reports to its maker what is run, and opens a database for that when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import numpy as np
import onnxruntime
from numpy.typing import NDArray

KEPT_TYPES = frozenset({"Const", "Parameter", "Result"})
"""OpenVINO's operations that compute nothing."""


class UnknownEngine(ValueError):
    """No engine of that name."""


@dataclass(frozen=True)
class EngineName:
    """An engine and the precision it computes in; as text `engine:precision`.

    fp32 everywhere; bf16-matmul: the inputs of matrix products with weights are rounded to bfloat16,
    everything else is fp32; bf16: everything that OpenVINO can.
    """

    engine: Literal["onnxruntime", "openvino"]
    precision: Literal["fp32", "bf16-matmul", "bf16"]

    def __str__(self) -> str:
        return f"{self.engine}:{self.precision}"


DEFAULT = EngineName("onnxruntime", "fp32")
ENGINES = (
    DEFAULT,
    EngineName("openvino", "fp32"),
    EngineName("openvino", "bf16-matmul"),
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
        """Int64 [total] and int32 [batch] to float32 [batch, D]; not from two threads at once."""


class OnnxRuntimeSession:
    """ONNX Runtime; threads: of one run. gpu: on CUDA where this build offers it."""

    def __init__(self, path: Path, threads: int, *, gpu: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # One plan is kept for every shape ever seen, and every ragged batch is a new shape.
        options.enable_mem_pattern = False
        # Idle threads that spin take the cores from the front end and from Triton.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        if gpu and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            providers.insert(0, "CUDAExecutionProvider")
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        self._output = self._session.get_outputs()[0].name

    def run(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """As `Session.run`."""
        feed = {"input_ids": input_ids, "item_shape": lengths.reshape(-1, 1)}
        result: NDArray[np.float32] = self._session.run([self._output], feed)[0]
        return result


class OpenVinoSession:
    """OpenVINO's CPU plugin; threads: of one run."""

    def __init__(self, path: Path, threads: int, precision: str) -> None:
        # Imported here: it takes half a second, and an operator may have chosen to do without.
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        if precision == "bf16-matmul":
            model = _keep_fp32_outside_matmul(core, model)
        hints: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # The cores are shared with the front end and with other models.
            "ENABLE_CPU_PINNING": False,
        }
        self._request = core.compile_model(model, "CPU", hints).create_infer_request()

    def run(self, input_ids: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """As `Session.run`."""
        feed = {"input_ids": input_ids, "item_shape": lengths.reshape(-1, 1)}
        self._request.infer(feed, share_inputs=True)
        # The request's own memory, overwritten by the next run.
        result: NDArray[np.float32] = self._request.get_output_tensor(0).data.copy()
        return result


def open_session(path: Path, threads: int, name: EngineName, *, gpu: bool = False) -> Session:
    """The model on that engine.

    Raises:
        RuntimeError, ImportError: the engine cannot run it here.
    """
    if name.engine == "openvino":
        return OpenVinoSession(path, threads, name.precision)
    return OnnxRuntimeSession(path, threads, gpu=gpu)


def has_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16, rather than imitating it slowly."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _keep_fp32_outside_matmul(core: Any, model: Any) -> Any:  # noqa: ANN401 - OpenVINO's, without annotations
    """The same model with every operation but matrix products marked to keep its precision.

    The residual stream and the normalisations stay in fp32, so that rounding does not add up from
    layer to layer: a text's vector then hardly depends on what else is in its batch. The mark is an
    attribute of OpenVINO's own that its Python interface cannot set; its file format can. Products with
    weights take no notice of it, and that is what is wanted.
    """
    import openvino

    with tempfile.TemporaryDirectory() as directory:
        graph, weights = Path(directory, "model.xml"), Path(directory, "model.bin")
        openvino.serialize(model, graph, weights)
        tree = ET.parse(graph)  # noqa: S314 - written by the line above
        for layer in tree.getroot().iterfind("layers/layer"):
            if layer.get("type") not in KEPT_TYPES:
                notes = layer.find("rt_info")
                if notes is None:
                    notes = ET.Element("rt_info")
                    layer.insert(0 if layer.find("data") is None else 1, notes)
                ET.SubElement(notes, "attribute", name="precise", version="0")
        tree.write(graph)
        # Read into memory: the files end with the directory.
        return core.read_model(graph.read_bytes(), openvino.Tensor(np.fromfile(weights, np.uint8)))
