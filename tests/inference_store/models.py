"""Small models for the real Triton's Python backend: datatypes, several answers a request, a sequence."""

from pathlib import Path

ECHO = """
import numpy as np
import triton_python_backend_utils as pb

NAMES = ("FLOATS", "NUMBERS", "TEXTS", "FLAGS", "HALVES")


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        outputs = []
        for name in NAMES:
            tensor = pb.get_input_tensor_by_name(request, name)
            if tensor is None:
                continue
            array = tensor.as_numpy()
            if name == "NUMBERS" and (array < 0).any():
                return pb.InferenceResponse(error=pb.TritonError("a number is negative"))
            outputs.append(pb.Tensor(name + "_OUT", array + array if name == "FLOATS" else array))
        return pb.InferenceResponse(outputs)
"""

REPEAT = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for number in range(int(pb.get_input_tensor_by_name(request, "COUNT").as_numpy()[0])):
                output = pb.Tensor("NUMBER", np.array([number], np.int32))
                sender.send(pb.InferenceResponse([output]))
            sender.send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""

TOTAL = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        self.totals = {}

    def execute(self, requests):
        answers = []
        for request in requests:
            value = pb.get_input_tensor_by_name(request, "VALUE").as_numpy()
            start = pb.get_input_tensor_by_name(request, "START").as_numpy()[0, 0]
            number = request.correlation_id()
            self.totals[number] = value + (0 if start else self.totals.get(number, 0))
            answers.append(pb.InferenceResponse([pb.Tensor("SUM", self.totals[number])]))
        return answers
"""

CONFIGS = {
    "echo": """
max_batch_size: 0
input [
  { name: "FLOATS" data_type: TYPE_FP32 dims: [ -1 ] optional: true },
  { name: "NUMBERS" data_type: TYPE_INT64 dims: [ -1 ] optional: true },
  { name: "TEXTS" data_type: TYPE_STRING dims: [ -1 ] optional: true },
  { name: "FLAGS" data_type: TYPE_BOOL dims: [ -1 ] optional: true },
  { name: "HALVES" data_type: TYPE_FP16 dims: [ -1 ] optional: true }
]
output [
  { name: "FLOATS_OUT" data_type: TYPE_FP32 dims: [ -1 ] },
  { name: "NUMBERS_OUT" data_type: TYPE_INT64 dims: [ -1 ] },
  { name: "TEXTS_OUT" data_type: TYPE_STRING dims: [ -1 ] },
  { name: "FLAGS_OUT" data_type: TYPE_BOOL dims: [ -1 ] },
  { name: "HALVES_OUT" data_type: TYPE_FP16 dims: [ -1 ] }
]
""",
    "repeat": """
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [ { name: "COUNT" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "NUMBER" data_type: TYPE_INT32 dims: [ 1 ] } ]
""",
    "total": """
max_batch_size: 1
sequence_batching {
  max_sequence_idle_microseconds: 60000000
  control_input [ { name: "START" control [ { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } ] } ]
}
input [ { name: "VALUE" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "SUM" data_type: TYPE_INT32 dims: [ 1 ] } ]
""",
}
PROGRAMS = {"echo": ECHO, "repeat": REPEAT, "total": TOTAL}


def write_models(repository: Path) -> None:
    """The three models as a Triton repository."""
    for name, config in CONFIGS.items():
        version = repository / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(PROGRAMS[name])
        head = f'name: "{name}"\nbackend: "python"\n'
        (repository / name / "config.pbtxt").write_text(head + config)
