"""Triton's backend `onnxruntime` where the C++ one is missing: a Python-based backend.

Runs in Triton's stub process. Serves the same `config.pbtxt` and `model.onnx` by the same contract.
Imports no torch and nothing of the front end.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

# The backend's directory is a link into the project; the stub knows nothing of the project's path.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from triton_models.backends.onnxruntime.engine import Engine
from triton_models.backends.onnxruntime.lifeline import end_with_triton, forget_shared_memory
from triton_models.backends.onnxruntime.selection import engine_for
from triton_models.tokens import token_ids


class TritonPythonModel:
    """One loaded model; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model named by `args`.

        Raises:
            TritonModelException: numpy 2, or a model that does not fit the contract.
        """
        if int(np.__version__.split(".")[0]) >= 2:
            # With numpy 2 this stub answers wrong numbers without an error.
            raise pb_utils.TritonModelException(f"the backend needs numpy<2, found {np.__version__}")
        end_with_triton()
        # The second argument of the stub is the name of its shared memory.
        forget_shared_memory(Path("/proc/self/cmdline").read_text(encoding="utf-8").split("\0")[2])
        config = json.loads(args["model_config"])
        directory = Path(args["model_repository"]) / args["model_version"]
        self._input = config["input"][0]["name"]
        self._output = config["output"][0]["name"]
        record = _record(directory)
        self._vocab_size = record.get("vocab_size")
        threads, gpu = _threads(config), args["model_instance_kind"] == "GPU"
        # Weights in fp16 are for a GPU: there is no engine to choose.
        chosen = engine_for(directory, threads, measured=not gpu and record.get("precision") != "fp16")
        pb_utils.Logger.log_info(
            f"{args['model_name']}: {chosen.engine}, {threads} threads in {chosen.streams} streams"
        )
        self._engine = Engine(directory / "model.onnx", threads, chosen.name, chosen.streams, gpu=gpu)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests, each int64 [b, L] with its own b and L, by one run.

        A request that cannot be computed gets an error of its own; the others are answered.
        """
        responses: list[Any] = [None] * len(requests)
        accepted: list[tuple[int, NDArray[np.int64]]] = []
        for index, request in enumerate(requests):
            rows = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy()
            problem = self._problem(rows)
            if problem is None:
                accepted.append((index, rows))
            else:
                responses[index] = pb_utils.InferenceResponse(error=_error(problem))
        if accepted:
            self._answer(accepted, responses)
        return responses

    def _answer(self, accepted: list[tuple[int, NDArray[np.int64]]], responses: list[Any]) -> None:
        input_ids = np.concatenate([rows.reshape(-1) for _, rows in accepted])
        lengths = np.concatenate([np.full(rows.shape[0], rows.shape[1], np.int32) for _, rows in accepted])
        try:
            embeddings = self._engine.run(input_ids, lengths)
        except Exception as error:  # noqa: BLE001 - whatever the engine raises is the answer, not the stub's end
            pb_utils.Logger.log_error(f"the run failed: {error}")
            for index, _ in accepted:
                responses[index] = pb_utils.InferenceResponse(error=_error("the model could not be computed"))
            return
        start = 0
        for index, rows in accepted:
            part = np.ascontiguousarray(embeddings[start : start + rows.shape[0]])
            start += rows.shape[0]
            responses[index] = pb_utils.InferenceResponse([pb_utils.Tensor(self._output, part)])

    def _problem(self, rows: NDArray[Any]) -> str | None:
        """Why these rows cannot be computed; None where they can."""
        if rows.dtype != np.int64 or rows.ndim != 2 or rows.size == 0:
            return f"{self._input} must be INT64 of shape [rows, tokens], at least one of each"
        ids = token_ids(rows)
        if rows.min() < 0 or (self._vocab_size is not None and ids.max() >= self._vocab_size):
            return f"{self._input} holds a token id outside the vocabulary"
        return None


def _error(message: str) -> Any:  # noqa: ANN401 - the class exists only inside the stub
    return pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)


def _record(directory: Path) -> dict[str, Any]:
    """`model.json` beside the model; empty where there is none, then ids are not checked."""
    try:
        record: dict[str, Any] = json.loads((directory / "model.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return record


def _threads(config: dict[str, Any]) -> int:
    parameter = config.get("parameters", {}).get("intra_op_thread_count")
    if parameter is not None:
        return max(1, int(parameter["string_value"]))
    # Instances work at the same time and share the cores.
    instances = sum(int(group["count"]) for group in config["instance_group"])
    return max(1, len(os.sched_getaffinity(0)) // instances)
