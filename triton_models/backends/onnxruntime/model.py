"""A Python-based backend `onnxruntime` for a Triton that lacks the C++ one.

It runs in Triton's stub process and serves the same `config.pbtxt` and `model.onnx` by the same contract. It
imports nothing of the gateway, and torch only for its engine.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

# The backend's directory is a link into the project, and the stub does not know the project's path.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from triton_models.backends.onnxruntime.parent_death import end_with_triton, forget_shared_memory
from triton_models.backends.onnxruntime.sessions import CPU
from triton_models.backends.onnxruntime.towers import Run, open_tower
from triton_models.contract.accuracy import first_not_finite


class TritonPythonModel:
    """One loaded model; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the model named by `args`.

        Raises:
            TritonModelException: Numpy 2 is installed.
        """
        if int(np.__version__.split(".")[0]) >= 2:
            # With numpy 2 this stub would return wrong numbers without an error.
            raise pb_utils.TritonModelException(f"the backend needs numpy<2, found {np.__version__}")
        end_with_triton()
        # The second argument of the stub is the name of its shared memory.
        forget_shared_memory(Path("/proc/self/cmdline").read_text(encoding="utf-8").split("\0")[2])
        config = json.loads(args["model_config"])
        directory = Path(args["model_repository"]) / args["model_version"]
        self._input = config["input"][0]["name"]
        self._output = config["output"][0]["name"]
        threads = _threads(config)
        # Each instance has a process of its own, and Triton spreads them over the GPUs of `instance_group`.
        device = f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else CPU
        self._tower = open_tower(config, directory, threads, device)
        pb_utils.Logger.log_info(f"{args['model_name']}: {self._tower.name}, {threads} threads, {device}")

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer a batch of requests, each with any number of rows, with one run for each kind; see `towers`.

        A request that cannot be computed, or that gets a vector that is not finite, is answered with an error
        of its own. The others are answered normally.
        """
        responses: list[Any] = [None] * len(requests)
        accepted: dict[Run, list[tuple[int, NDArray[Any]]]] = {}
        for index, request in enumerate(requests):
            rows = pb_utils.get_input_tensor_by_name(request, self._input).as_numpy()
            problem = self._tower.problem(rows)
            if problem is None:
                accepted.setdefault(self._tower.run_of(rows), []).append((index, rows))
            else:
                responses[index] = pb_utils.InferenceResponse(error=_error(problem))
        for run, some in accepted.items():
            self._answer(run, some, responses)
        return responses

    def _answer(self, run: Run, accepted: list[tuple[int, NDArray[Any]]], responses: list[Any]) -> None:
        try:
            answers = run([rows for _, rows in accepted])
        except Exception as error:  # noqa: BLE001 - an error of the engine must not end the stub
            pb_utils.Logger.log_error(f"the run failed: {error}")
            for index, _ in accepted:
                responses[index] = pb_utils.InferenceResponse(error=_error("the model could not be computed"))
            return
        for (index, _), answer in zip(accepted, answers, strict=True):
            if (row := first_not_finite(answer)) is not None:
                # It is an error so that no cache keeps it as an answer; `grpc_errors.py` matches its text.
                problem = f"the vector of row {row} is not finite"
                responses[index] = pb_utils.InferenceResponse(error=_error(problem))
                continue
            tensor = pb_utils.Tensor(self._output, np.ascontiguousarray(answer))
            responses[index] = pb_utils.InferenceResponse([tensor])


def _error(message: str) -> Any:  # noqa: ANN401 - the class exists only inside the stub
    return pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)


def _threads(config: dict[str, Any]) -> int:
    # The C++ backend reads this parameter too, which an operator may write into `config.pbtxt`.
    parameter = config.get("parameters", {}).get("intra_op_thread_count")
    if parameter is not None:
        return max(1, int(parameter["string_value"]))
    # Instances run at the same time and share the cores.
    instances = sum(int(group["count"]) for group in config["instance_group"])
    return max(1, len(os.sched_getaffinity(0)) // instances)
