"""A record made on the spot, by the package alone; as a script, a writer of records."""

import struct
import sys
from pathlib import Path

from inference_store.directory import RecordFiles
from inference_store.identity import canonical, describe
from inference_store.protocol import InferRequest, InferResponse
from inference_store.record import Outcome, Record, make


def record(value: float = 1.0) -> Record:
    asked = InferRequest(model_name="m")
    asked.inputs.add(name="X", datatype="FP32", shape=[1])
    asked.raw_input_contents.append(struct.pack("<f", value))
    answer = InferResponse(model_name="m", model_version="1", raw_output_contents=[b"1234" * 100])
    return make(describe(asked), canonical(asked), Outcome((answer.SerializeToString(),)), 0.25)


def main() -> None:
    """As a process: write 60 records into the directory named."""
    files = RecordFiles(Path(sys.argv[1]))
    for number in range(60):
        files.write(record(float(number)))


if __name__ == "__main__":
    main()
