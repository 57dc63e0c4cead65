"""Which requests are the same."""

import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from inference_store import protocol
from inference_store.identity import Matching, canonical, describe, identity
from inference_store.protocol import InferRequest

Message = Any


def request() -> Message:
    made = InferRequest(model_name="m", model_version="1", id="x")
    made.inputs.add(name="A", datatype="FP32", shape=[2, 3])
    made.inputs.add(name="B", datatype="INT64", shape=[1])
    made.raw_input_contents.extend([struct.pack("<6f", *range(6)), struct.pack("<q", 7)])
    made.outputs.add(name="Y")
    made.outputs.add(name="Z")
    made.parameters["priority"].int64_param = 1
    return made


def key(message: Message, matching: Matching | None = None) -> str:
    return identity(describe(message)) if matching is None else identity(describe(message), matching)


def changed(change: Callable[[Message], object]) -> Message:
    made = request()
    change(made)
    return made


def set_field(message: Message, name: str, value: object) -> None:
    setattr(message, name, value)


DIFFERENT: dict[str, Callable[[Message], object]] = {
    "model": lambda r: set_field(r, "model_name", "n"),
    "version": lambda r: set_field(r, "model_version", "2"),
    "no version": lambda r: set_field(r, "model_version", ""),
    "input name": lambda r: set_field(r.inputs[0], "name", "C"),
    "datatype": lambda r: set_field(r.inputs[0], "datatype", "INT32"),
    "shape of equal bytes": lambda r: r.inputs[0].shape.__setitem__(slice(None), [3, 2]),
    "flat shape": lambda r: r.inputs[0].shape.__setitem__(slice(None), [6]),
    "content": lambda r: r.raw_input_contents.__setitem__(1, struct.pack("<q", 8)),
    "negative zero": lambda r: r.raw_input_contents.__setitem__(0, struct.pack("<6f", -0.0, 1, 2, 3, 4, 5)),
    "output left out": lambda r: r.outputs.pop(),
    "outputs in another order": lambda r: r.outputs.reverse(),
    "output's parameter": lambda r: set_field(r.outputs[0].parameters["classification"], "int64_param", 3),
    "input's parameter": lambda r: set_field(r.inputs[0].parameters["p"], "int64_param", 3),
    "parameter": lambda r: set_field(r.parameters["priority"], "int64_param", 2),
    "kind of parameter": lambda r: set_field(r.parameters["priority"], "string_param", "1"),
    "true for 1": lambda r: set_field(r.parameters["priority"], "bool_param", True),
    "parameter more": lambda r: set_field(r.parameters["q"], "bool_param", False),
    "content that does not fit": lambda r: r.raw_input_contents.__setitem__(1, b"123"),
    "unknown datatype": lambda r: set_field(r.inputs[0], "datatype", "FP33"),
    "negative size": lambda r: r.inputs[0].shape.__setitem__(slice(None), [-2, -3]),
    "raw content missing": lambda r: r.raw_input_contents.pop(),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_told_apart(name: str) -> None:
    other = changed(DIFFERENT[name])
    assert key(other) != key(request())
    assert key(other) == key(changed(DIFFERENT[name]))


def test_all_differences_differ_from_each_other() -> None:
    assert len({key(changed(change)) for change in DIFFERENT.values()}) == len(DIFFERENT)


def test_the_id_never_counts() -> None:
    assert key(changed(lambda r: set_field(r, "id", "other"))) == key(request())
    broken, other = (changed(lambda r: r.raw_input_contents.pop()) for _ in range(2))
    other.id = "other"
    assert key(broken) == key(other)


def test_the_order_of_inputs_does_not_count() -> None:
    other = InferRequest.FromString(request().SerializeToString())
    first, second = other.inputs.pop(0), other.raw_input_contents.pop(0)
    other.inputs.append(first)
    other.raw_input_contents.append(second)
    assert key(other) == key(request())


@pytest.mark.parametrize(
    ("datatype", "field", "elements", "raw"),
    [
        ("FP32", "fp32_contents", [0.5, -1.0], struct.pack("<2f", 0.5, -1)),
        ("FP64", "fp64_contents", [0.1, math.inf], struct.pack("<2d", 0.1, math.inf)),
        ("INT8", "int_contents", [-1, 127], struct.pack("<2b", -1, 127)),
        ("INT16", "int_contents", [-1, 300], struct.pack("<2h", -1, 300)),
        ("INT32", "int_contents", [-1, 70000], struct.pack("<2i", -1, 70000)),
        ("INT64", "int64_contents", [-1, 2**62], struct.pack("<2q", -1, 2**62)),
        ("UINT8", "uint_contents", [1, 255], bytes([1, 255])),
        ("UINT16", "uint_contents", [1, 65535], struct.pack("<2H", 1, 65535)),
        ("UINT32", "uint_contents", [1, 2**32 - 1], struct.pack("<2I", 1, 2**32 - 1)),
        ("UINT64", "uint64_contents", [1, 2**64 - 1], struct.pack("<2Q", 1, 2**64 - 1)),
        ("BOOL", "bool_contents", [True, False], b"\1\0"),
        ("BYTES", "bytes_contents", [b"", b"abc"], b"\0\0\0\0\3\0\0\0abc"),
    ],
)
def test_typed_and_raw_are_the_same(datatype: str, field: str, elements: list[Any], raw: bytes) -> None:
    typed, sent_raw = InferRequest(model_name="m"), InferRequest(model_name="m", id="other")
    tensor = typed.inputs.add(name="A", datatype=datatype, shape=[2])
    getattr(tensor.contents, field).extend(elements)
    sent_raw.inputs.add(name="A", datatype=datatype, shape=[2])
    sent_raw.raw_input_contents.append(raw)
    assert "malformed" not in describe(typed)
    assert key(typed) == key(sent_raw)
    assert canonical(typed) == canonical(sent_raw)


def test_parameters_can_be_left_out() -> None:
    other = changed(DIFFERENT["parameter"])
    assert key(other, Matching(frozenset({"priority"}))) == key(request(), Matching(frozenset({"priority"})))
    assert key(other, Matching(frozenset({"all"}))) == key(request(), Matching(frozenset({"all"})))
    assert key(other, Matching(frozenset({"q"}))) != key(request(), Matching(frozenset({"q"})))


def test_floats_and_outputs_can_be_compared_otherwise() -> None:
    close = changed(lambda r: r.raw_input_contents.__setitem__(0, struct.pack("<6f", 0.001, 1, 2, 3, 4, 5)))
    assert key(close, Matching(tolerance=0.01)) == key(request(), Matching(tolerance=0.01))
    whole = changed(DIFFERENT["content"])
    assert key(whole, Matching(tolerance=0.01)) != key(request(), Matching(tolerance=0.01))
    fewer = changed(DIFFERENT["output left out"])
    assert key(fewer, Matching(subset_outputs=True)) == key(request(), Matching(subset_outputs=True))


def test_the_protocol_is_that_of_tritonclient() -> None:
    from tritonclient.grpc import model_config_pb2

    written = protocol.descriptor_set([model_config_pb2.DESCRIPTOR, service_pb2.DESCRIPTOR])
    assert protocol.FILE.read_bytes() == written
