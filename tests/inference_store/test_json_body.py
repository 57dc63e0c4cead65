"""Bodies of JSON that cost more than to read them."""

import json
import resource
import struct

import pytest

from inference_store.errors import Invalid
from inference_store.http_infer import parse_request
from inference_store.http_routes import find_call

START = b'{"inputs": [{"name": "X", "datatype": "INT8", "shape": [1], "data": ['


@pytest.mark.parametrize("part", [b"0,", b"0.5,", b"[],", b"[", b'"",', b"{},"])
def test_millions_of_small_parts_are_refused_before_they_are_made(part: bytes) -> None:
    """A zero of two bytes took 16 of a list twice, and a second a few million of the event loop."""
    body = START + part * ((64 << 20) // len(part)) + b"0]}]}"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Invalid, match=r"parts: send tensors in binary$"):
        parse_request("m", "", body, None)
    with pytest.raises(Invalid, match=r"parts: send tensors in binary$"):
        find_call("POST", "/v2/repository/index", body)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10


def test_elements_in_lists_of_any_depth_are_read_in_their_order() -> None:
    data: object = [1, [], [[2, 3], 4], [[[[5]]]]]
    for _ in range(300):
        data = [data]
    tensor = {"name": "X", "datatype": "INT8", "shape": [5], "data": data}
    asked = parse_request("m", "", json.dumps({"inputs": [tensor]}).encode(), None)
    assert asked.request.raw_input_contents[0] == struct.pack("5b", 1, 2, 3, 4, 5)


def test_a_large_tensor_in_json_is_read() -> None:
    tensor = {"name": "X", "datatype": "FP32", "shape": [500_000], "data": [0.5] * 500_000}
    asked = parse_request("m", "", json.dumps({"inputs": [tensor]}).encode(), None)
    assert asked.request.raw_input_contents[0] == struct.pack("f", 0.5) * 500_000
