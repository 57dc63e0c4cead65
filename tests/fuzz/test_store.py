"""The inference store: records, identities, and requests over HTTP, whatever their bytes."""

import hashlib
import json
import random
import struct
from contextlib import suppress
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from inference_store.errors import Invalid
from inference_store.http_infer import Asked, parse_request, write_response
from inference_store.http_routes import HttpRefusal, find_call
from inference_store.identity import canonical, describe, identity, step
from inference_store.protocol import InferRequest, InferResponse, Message, with_id
from inference_store.record import UnreadableRecord, decode, encode
from inference_store.tensors import WIDTHS, MalformedTensor, raw_contents
from tests.fuzz.mutations import broken_json, damaged, deep, mutated, one_line
from tests.inference_store.made_record import record

RECORD = record()
RECORDS = (encode(RECORD), encode(RECORD, compress=True))


def summed(rng: random.Random, content: bytes) -> bytes:
    """A record whose index or payload was changed by one who can count: its checksum is right."""
    index, _, payload = content.partition(b"\n")[2].partition(b"\n\n")
    index = broken_json(rng, json.loads(index)) if rng.random() < 0.8 else index
    payload = mutated(rng, payload) if rng.random() < 0.3 else payload
    return with_sum(index + b"\n\n" + payload)


def with_sum(body: bytes) -> bytes:
    return b"inference-store 1 %s\n%s" % (hashlib.sha256(body).hexdigest().encode(), body)


@given(damaged(*RECORDS) | st.builds(summed, st.randoms(use_true_random=False), st.sampled_from(RECORDS)))
@example(with_sum(deep(100_000).encode() + b"\n\n"))
@example(b"inference-store 1 \n")
@example(b"inference-store 1  \n\n\n")
@example(b"")
def test_records(content: bytes) -> None:
    try:
        found = decode(content, RECORD.key)
    except UnreadableRecord as error:
        one_line(error)
        return
    assert found.key == RECORD.key
    assert found.size > 0


def requests() -> st.SearchStrategy[Message]:
    names = st.sampled_from(("a", "b", "", "é"))
    sizes = st.lists(st.integers(-1, 3) | st.just(2**62), max_size=3)
    values = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | names
    fields = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}

    def made(
        inputs: list[tuple[str, str, list[int], list[int]]],
        outputs: list[str],
        parameters: dict[str, Any],
        raw: list[bytes],
        typed: bool,
    ) -> Message:
        request = InferRequest(model_name="m", id="5", raw_input_contents=raw)
        for name, datatype, shape, content in inputs:
            tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
            if typed:
                tensor.contents.int64_contents.extend(content)
        for name in outputs:
            request.outputs.add(name=name)
        for name, value in parameters.items():
            setattr(request.parameters[name], fields[type(value)], value)
        return request

    datatypes = st.sampled_from((*WIDTHS, "BYTES", "FP8", ""))
    numbers = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4)
    inputs = st.lists(st.tuples(names, datatypes, sizes, numbers), max_size=3)
    contents = st.lists(st.binary(max_size=16), max_size=3)
    return st.builds(
        made,
        inputs,
        st.lists(names, max_size=2),
        st.dictionaries(names, values, max_size=2),
        contents,
        st.booleans(),
    )


@given(requests())
def test_a_request_has_one_identity_however_it_was_sent(request: Message) -> None:
    known = identity(describe(request))
    assert step(describe(request))
    kept = InferRequest.FromString(canonical(request))
    assert identity(describe(kept)) == known
    assert canonical(kept) == canonical(request)
    with suppress(MalformedTensor):
        assert raw_contents(kept) == raw_contents(request)
    request.id = "another"
    assert identity(describe(request)) == known


@given(requests(), requests())
def test_different_requests_have_different_identities(one: Message, other: Message) -> None:
    assert (identity(describe(one)) == identity(describe(other))) == (in_order(one) == in_order(other))


def in_order(request: Message) -> tuple[bytes, bytes]:
    """What counts: the order of the inputs does not."""
    kept = InferRequest.FromString(canonical(request))
    try:
        contents = raw_contents(kept)
    except MalformedTensor:
        return b"malformed", canonical(request)
    inputs = sorted(
        (tensor.SerializeToString(deterministic=True), content)
        for tensor, content in zip(kept.inputs, contents, strict=True)
    )
    del kept.inputs[:], kept.raw_input_contents[:]
    return repr(inputs).encode(), kept.SerializeToString(deterministic=True)


ROW = struct.pack("<2f", 1, 2)
INFER: dict[str, Any] = {
    "id": "7",
    "parameters": {"sequence_id": 5, "binary_data_output": True},
    "inputs": [
        {"name": "X", "datatype": "FP32", "shape": [1, 2], "data": [[1.0, 2]]},
        {"name": "Y", "datatype": "BYTES", "shape": [2], "data": ["a", "é"], "parameters": {"p": True}},
        {"name": "Z", "datatype": "BOOL", "shape": [2], "data": [True, False]},
    ],
    "outputs": [{"name": "O", "parameters": {"binary_data": False, "classification": 3}}],
}
BINARY = {
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": len(ROW)}}]
}


@given(st.randoms(use_true_random=False), st.sampled_from((INFER, BINARY)), st.booleans())
def test_inferences_over_http(rng: random.Random, document: dict[str, Any], binary: bool) -> None:
    head = broken_json(rng, document)
    rest = ROW if binary else b""
    length = rng.choice((len(head), len(head), 0, len(head) + len(rest), len(head) // 2)) if binary else None
    try:
        asked = parse_request("m", "", head + rest, length)
    except Invalid as error:
        str(error).encode()
        return
    assert raw_contents(asked.request) is not None
    asked.request.SerializeToString()


def test_binary_and_json_are_the_same_request() -> None:
    head = json.dumps(BINARY).encode()
    as_json = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [2], "data": [1, 2]}]}
    one = parse_request("m", "", head + ROW, len(head)).request
    assert identity(describe(one)) == identity(
        describe(parse_request("m", "", json.dumps(as_json).encode(), None).request)
    )


PATHS = (
    "/v2",
    "/v2/health/ready",
    "/v2/models/stats",
    "/v2/models/m/versions/1",
    "/v2/models/m/config",
    "/v2/logging",
    "/v2/repository/index",
    "/v2/repository/models/m/load",
    "/v2/systemsharedmemory/region/r/register",
    "/v2/cudasharedmemory/status",
    "/v2/trace/setting",
    "/v2/models/m/trace/setting",
    "/v2/models/%ff/ready",
)
CALLS = (
    {"ready": True},
    {"parameters": {"config": "{}", "file:1/model.onnx": "AA==", "unload_dependents": True, "n": 5}},
    {"trace_level": ["OFF"], "trace_rate": 5, "log_frequency": None},
    {"log_file": "", "log_info": True, "log_verbose_level": 3},
)


@given(
    st.randoms(use_true_random=False),
    st.sampled_from(PATHS),
    st.sampled_from(CALLS),
    st.sampled_from(("GET", "POST")),
)
@example(random.Random(0), "/v2/logging", {"log_verbose_level": -1}, "POST")
def test_calls_over_http(rng: random.Random, path: str, document: dict[str, Any], verb: str) -> None:
    if rng.random() < 0.3:
        path = mutated(rng, path.encode()).decode("latin-1")
    for body in (broken_json(rng, document), json.dumps(document).encode()):
        try:
            call = find_call(verb, path, body)
        except (HttpRefusal, Invalid) as error:
            str(error).encode()
            continue
        call.request.SerializeToString()


@given(
    st.lists(
        st.tuples(
            st.sampled_from((*WIDTHS, "BYTES", "FP8", "")),
            st.lists(st.integers(-1, 4), max_size=2),
            st.binary(max_size=20) | st.just(b"\2\0\0\0\xff\xff"),
            st.booleans(),
        ),
        max_size=2,
    ),
    st.text(max_size=5),
)
def test_any_answer_over_http(outputs: list[tuple[str, list[int], bytes, bool]], request_id: str) -> None:
    answer = InferResponse(model_name="m", raw_output_contents=[content for _, _, content, _ in outputs])
    for number, (datatype, shape, _, _) in enumerate(outputs):
        answer.outputs.add(name=str(number), datatype=datatype, shape=shape)
    binary = {str(number): one[3] for number, one in enumerate(outputs)}
    try:
        body, head = write_response(
            answer.SerializeToString(), request_id, Asked(InferRequest(), binary, False)
        )
    except Invalid:
        return
    assert json.loads(body[:head])["outputs"] is not None


@given(st.text(max_size=300))
def test_an_id_is_put_into_an_answer(request_id: str) -> None:
    answer = InferResponse(model_name="m").SerializeToString()
    assert InferResponse.FromString(with_id(answer, request_id)).id == request_id
