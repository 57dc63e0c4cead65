"""Requests that do not fit: over the limits, of other bytes than their shape, of no known datatype."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests.inference_store import processes
from tests.inference_store.played_target import Played, played
from tests.inference_store.processes import RunningTriton, Store
from tests.inference_store.test_modes import error, infer, request


def spoilt(change: str) -> service_pb2.ModelInferRequest:
    made = service_pb2.ModelInferRequest(model_name="echo", id="x")
    tensor = made.inputs.add(name="NUMBERS", datatype="INT64", shape=[2])
    made.raw_input_contents.append(np.array([1, 2], np.int64).tobytes())
    if change == "bytes":
        made.raw_input_contents[0] = b"123"
    elif change == "datatype":
        tensor.datatype = "INT65"
    elif change == "shape":
        tensor.shape[:] = [-2]
    else:
        tensor.name, tensor.datatype = "TEXTS", "BYTES"
        made.raw_input_contents[0] = b"\xff\0\0\0abc"
    return made


SPOILT = {
    "bytes": "input 'NUMBERS': 3 bytes, INT64 of shape [2] needs 16",
    "datatype": "input 'NUMBERS': unknown datatype 'INT65'",
    "shape": "input 'NUMBERS': shape [-2] has a negative size",
    "string": "input 'TEXTS': the content ends inside a string",
}


@pytest.mark.parametrize("change", SPOILT)
def test_tensors_that_do_not_fit(triton: RunningTriton, tmp_path: Path, log: Path, change: str) -> None:
    """The server judges and its verdict is recorded; without one, the store says what is wrong."""
    path = str(tmp_path / "r")
    direct = error(triton.url, spoilt(change))
    with processes.store(log, "collect", "--target", triton.url, "--path", path) as store:
        assert error(store.url, spoilt(change)) == direct
    (tmp_path / "empty").mkdir()
    with processes.store(log, "serve", "--path", path) as store:
        assert error(store.url, spoilt(change)) == direct
    with processes.store(log, "serve", "--path", str(tmp_path / "empty")) as store:
        assert error(store.url, spoilt(change)) == ("INVALID_ARGUMENT", SPOILT[change])


@pytest.fixture(scope="module")
def target() -> Iterator[Played]:
    with played() as running:
        yield running


@pytest.fixture(scope="module")
def limited(target: Played, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    root = tmp_path_factory.mktemp("limited")
    options = ("--target", target.url, "--path", str(root / "r"), "--max-message-bytes", "100000")
    with processes.store(root / "store.log", *options) as running:
        yield running


def test_requests_over_the_limit(limited: Store) -> None:
    code, text = error(limited.url, request(*range(30000)))
    assert code == "RESOURCE_EXHAUSTED"
    assert "larger than max" in text
    infer(limited.url, request(*range(20000)))
    url = f"http://{limited.http_url}/v2/models/m/infer"
    answer = httpx.post(url, content=b"x" * 100001, trust_env=False)
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        "the body is over 100000 bytes (max_message_bytes)",
    )
    packed = gzip.compress(b" " * 10_000_000)
    assert len(packed) < 100000
    answer = httpx.post(url, content=packed, headers={"content-encoding": "gzip"}, trust_env=False)
    assert answer.status_code == 413


def test_messages_of_any_size_pass(target: Played, tmp_path: Path, log: Path) -> None:
    """gRPC's own limit is 4 MB."""
    with processes.store(log, "--target", target.url, "--path", str(tmp_path / "r")) as store:
        for _ in range(2):
            answer = infer(store.url, request(*range(2_000_000)))
            assert len(answer.raw_output_contents[0]) == 8_000_000


def test_bytes_that_are_no_message(limited: Store) -> None:
    for method in ("ModelInfer", "ModelConfig"):
        with grpc.insecure_channel(limited.url) as channel:
            call = channel.unary_unary(
                f"/inference.GRPCInferenceService/{method}",
                request_serializer=None,
                response_deserializer=None,
            )
            with pytest.raises(grpc.RpcError) as raised:
                call(b"\xff\xff", timeout=10)
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def body(**fields: object) -> dict[str, Any]:
    tensor = {"name": "X", "shape": [2], "datatype": "FP32", "data": [1, 2], **fields}
    return {"inputs": [{name: value for name, value in tensor.items() if value is not None}]}


BODIES: dict[str, tuple[Any, str]] = {
    "no JSON": (b"{", "cannot be read"),
    "a list": ([], "cannot be read"),
    "no name": (body(name=None), "'name' is missing"),
    "too few": (body(data=[1]), "4 bytes, FP32 of shape [2] needs 8"),
    "text for numbers": (body(data=["1", "2"]), "not all elements are FP32"),
    "true for 1": (body(datatype="INT64", data=[True, 1]), "not all elements are INT64"),
    "out of range": (body(datatype="INT8", data=[1, 128]), "not all elements are INT8"),
    "datatype": (body(datatype="FP33"), "unknown datatype 'FP33'"),
    "half": (body(datatype="FP16"), "FP16 cannot be sent as JSON"),
    "shape": (body(shape=["a"]), "cannot be read"),
    "parameters": (body(parameters={"p": None}), "parameter 'p' must be"),
    "binary size": (body(parameters={"binary_data_size": 8}), "input 'X' has 8 bytes, 0 are left"),
    "shared memory": (body(parameters={"shared_memory_region": "r"}), "shared memory"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bodies_that_do_not_fit(limited: Store, target: Played, name: str) -> None:
    content, said = BODIES[name]
    asked = target.asked["ModelInfer"]
    data = content if isinstance(content, bytes) else json.dumps(content)
    answer = httpx.post(f"http://{limited.http_url}/v2/models/m/infer", content=data, trust_env=False)
    assert answer.status_code == (501 if name == "shared memory" else 400)
    assert said in answer.json()["error"]
    assert target.asked["ModelInfer"] == asked


def test_paths_and_headers_that_do_not_fit(limited: Store) -> None:
    with httpx.Client(base_url=f"http://{limited.http_url}", trust_env=False) as client:
        assert client.get("/v2/nothing").status_code == 404
        assert client.get("/v2/models/m/infer").status_code == 405
        assert client.post("/v2/health/live").status_code == 405
        headers = {"inference-header-content-length": "99"}
        assert client.post("/v2/models/m/infer", content=b"{}", headers=headers).status_code == 400
        assert (
            client.post("/v2/models/m/infer", content=b"{}", headers={"content-encoding": "br"}).status_code
            == 400
        )
        broken = client.post("/v2/models/m/infer", content=b"no gzip", headers={"content-encoding": "gzip"})
        assert broken.status_code == 400


def test_infinite_numbers_over_json(triton: RunningTriton, tmp_path: Path, log: Path) -> None:
    content = json.dumps(
        {"inputs": [{"name": "FLOATS", "shape": [2], "datatype": "FP32", "data": [1e39, 0.1]}]}
    )
    with processes.store(log, "collect", "--target", triton.url, "--path", str(tmp_path / "r")) as store:
        for binary in (True, False):
            wanted = {
                **json.loads(content),
                "outputs": [{"name": "FLOATS_OUT", "parameters": {"binary_data": binary}}],
            }
            one, other = (
                httpx.post(f"http://{url}/v2/models/echo/infer", json=wanted, trust_env=False).content
                for url in (triton.http_url, store.http_url)
            )
            # Both spellings of a number mean the same double.
            assert (one == other) if binary else (json.loads(one) == json.loads(other))
