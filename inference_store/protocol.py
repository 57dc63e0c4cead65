"""The messages and methods of the Open Inference Protocol as Triton extends it.

`protocol.binpb` is the descriptor set of NVIDIA's grpc_service.proto and model_config.proto (BSD-3-Clause,
see README.md), taken from tritonclient. It is read at start and works with any protobuf, while generated code
works with two versions. The descriptors are in a pool of their own, so that tritonclient can be imported too.

`python -m inference_store.protocol` writes the file again from the installed tritonclient.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

Message = Any
"""A protobuf message. The classes are made at run time, so type checkers do not know their fields."""

SERVICE = "inference.GRPCInferenceService"
FILE = Path(__file__).with_name("protocol.binpb")
INFER = "ModelInfer"
STREAM = "ModelStreamInfer"


@dataclass(frozen=True)
class Method:
    """One call of the service, with the classes of its request and its answer."""

    request: Message
    answer: Message


def _methods() -> dict[str, Method]:
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(FILE.read_bytes()).file:
        pool.AddSerializedFile(file.SerializeToString())  # type: ignore[no-untyped-call]
    service: Any = pool.FindServiceByName(SERVICE)  # type: ignore[no-untyped-call]
    return {
        method.name: Method(GetMessageClass(method.input_type), GetMessageClass(method.output_type))
        for method in service.methods
    }


METHODS = _methods()
"""The calls of the service by name."""

InferRequest = METHODS[INFER].request
InferResponse = METHODS[INFER].answer
StreamResponse = METHODS[STREAM].answer


def descriptor_set(files: Iterable[Any]) -> bytes:
    """Return the bytes of `protocol.binpb`; imported files must come before the files that import them."""
    collected = FileDescriptorSet()
    for file in files:
        proto = FileDescriptorProto()
        file.CopyToProto(proto)
        collected.file.append(proto)
    return collected.SerializeToString(deterministic=True)


def with_id(answer: bytes, request_id: str) -> bytes:
    """Add an id to a serialized ModelInferResponse that has none, by appending it without parsing."""
    # protobuf reads two messages, one after the other, as one with the fields of both.
    return answer + bytes(InferResponse(id=request_id).SerializeToString())


def main() -> int:
    """Write `protocol.binpb` and return the exit status."""
    from tritonclient.grpc import model_config_pb2, service_pb2

    FILE.write_bytes(descriptor_set([model_config_pb2.DESCRIPTOR, service_pb2.DESCRIPTOR]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
