"""serve, collect and auto; a target that is down, slow or restarting; what is sent once; stopping."""

import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.conftest import free_port
from tests.inference_store import processes
from tests.inference_store.played_target import Played, played


@pytest.fixture
def target() -> Iterator[Played]:
    with played() as running:
        yield running


def request(*values: float, outputs: tuple[str, ...] = (), **fields: str) -> service_pb2.ModelInferRequest:
    made = service_pb2.ModelInferRequest(model_name="m", **fields)
    made.inputs.add(name="X", datatype="FP32", shape=[len(values)])
    made.raw_input_contents.append(np.array(values, np.float32).tobytes())
    for name in outputs:
        made.outputs.add(name=name)
    return made


def infer(url: str, message: service_pb2.ModelInferRequest, **options: Any) -> service_pb2.ModelInferResponse:  # noqa: ANN401 - gRPC's
    with grpc.insecure_channel(url, options=[("grpc.max_receive_message_length", -1)]) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        return stub.ModelInfer(message, **{"timeout": 20, **options})


def error(url: str, message: service_pb2.ModelInferRequest, **options: Any) -> tuple[str, str]:  # noqa: ANN401 - gRPC's
    with pytest.raises(grpc.RpcError) as raised:
        infer(url, message, **options)
    return raised.value.code().name, raised.value.details() or ""


def test_auto_asks_once_and_then_replays(target: Played, tmp_path: Path, log: Path) -> None:
    with processes.store(log, "--target", target.url, "--path", str(tmp_path / "r")) as store:
        first = infer(store.url, request(1, 2, id="one"))
        second = infer(store.url, request(1, 2, id="two"))
    assert (first.id, second.id) == ("one", "two")
    assert (
        first.raw_output_contents == second.raw_output_contents == [request(1, 2).raw_input_contents[0]] * 2
    )
    assert target.asked["ModelInfer"] == 1
    assert target.ids == ["one"]


def test_collect_always_asks(target: Played, tmp_path: Path, log: Path) -> None:
    with processes.store(log, "collect", "--target", target.url, "--path", str(tmp_path / "r")) as store:
        infer(store.url, request(1))
        [file] = (tmp_path / "r").iterdir()
        before = file.stat(), file.read_bytes()
        infer(store.url, request(1, id="again"))
    assert target.asked["ModelInfer"] == 2
    # Recording the same again changes nothing that git would see.
    assert (file.stat(), file.read_bytes()) == before


def test_serve_tells_how_the_nearest_record_differs(target: Played, tmp_path: Path, log: Path) -> None:
    path = str(tmp_path / "r")
    with processes.store(log, "collect", "--target", target.url, "--path", path) as store:
        infer(store.url, request(1, 2, 3))
        infer(store.url, request(1, 2, 3, 4))
    with processes.store(log, "serve", "--path", path) as store:
        code, text = error(store.url, request(1, 5, 3))
        assert code == "FAILED_PRECONDITION"
        assert "nearest of 2 records" in text
        assert "input 'X': 1 of 3 elements, first at 1: 5.0 here, 2.0 recorded" in text
        code, text = error(store.url, request(1, 2, 3, model_version="9", outputs=("A",)))
        assert "version: 9 here, none recorded; requested outputs: A here, none recorded" in text
        other = request(1, 2, 3)
        other.model_name = "unheard"
        assert "models recorded: m" in error(store.url, other)[1]
        answer = httpx.post(
            f"http://{store.http_url}/v2/models/unheard/infer", json={"inputs": []}, trust_env=False
        )
        assert answer.status_code == 412
        assert "not recorded at all" in answer.json()["error"]


def test_serve_is_ready_without_a_record_of_it(target: Played, tmp_path: Path, log: Path) -> None:
    path = str(tmp_path / "r")
    with processes.store(log, "collect", "--target", target.url, "--path", path) as store:
        infer(store.url, request(1))
    with (
        processes.store(log, "serve", "--path", path) as store,
        grpcclient.InferenceServerClient(store.url) as client,
    ):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("m")
        assert not client.is_model_ready("unheard")
        with pytest.raises(InferenceServerException, match="ServerMetadata is not recorded at all"):
            client.get_server_metadata()


def test_in_auto_the_state_of_the_server_is_asked_anew(target: Played, tmp_path: Path, log: Path) -> None:
    with (
        processes.store(log, "--target", target.url, "--path", str(tmp_path / "r")) as store,
        grpcclient.InferenceServerClient(store.url) as client,
    ):
        for ready in (False, True, False):
            target.ready = ready
            assert client.is_model_ready("m") is ready


def test_errors_are_recorded_and_in_auto_asked_again(target: Played, tmp_path: Path, log: Path) -> None:
    target.refuses = (grpc.StatusCode.INVALID_ARGUMENT, "[request id: a] no such shape")
    path = str(tmp_path / "r")
    with processes.store(log, "--target", target.url, "--path", path) as store:
        for _ in range(2):
            assert error(store.url, request(1, id="a")) == (
                "INVALID_ARGUMENT",
                "[request id: a] no such shape",
            )
        assert target.asked["ModelInfer"] == 2
        with processes.store(tmp_path / "serve.log", "serve", "--path", path) as serving:
            assert error(serving.url, request(1, id="b"))[1] == "[request id: b] no such shape"
            assert error(serving.url, request(1))[1] == "[request id: <id_unknown>] no such shape"
        target.refuses = None
        infer(store.url, request(1))
        infer(store.url, request(1))
        assert target.asked["ModelInfer"] == 3


def test_what_passes_is_not_recorded(target: Played, tmp_path: Path, log: Path) -> None:
    target.refuses = (grpc.StatusCode.UNAVAILABLE, "not ready yet")
    with processes.store(log, "collect", "--target", target.url, "--path", str(tmp_path / "r")) as store:
        assert "not ready yet" in error(store.url, request(1))[1]
    assert not list((tmp_path / "r").iterdir())


def test_a_target_that_is_down_and_comes_back(tmp_path: Path, log: Path) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    with processes.store(log, "--target", address, "--path", str(tmp_path / "r")) as store:
        code, text = error(store.url, request(1))
        assert code == "UNAVAILABLE"
        assert address in text
        assert httpx.get(f"http://{store.http_url}/v2", trust_env=False).status_code == 503
        with played(port=port):
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    infer(store.url, request(2))
                    break
                except grpc.RpcError:
                    time.sleep(0.1)
        # Down again: what is recorded is answered, the rest is not.
        assert infer(store.url, request(2)).model_name == "m"
        assert error(store.url, request(3))[0] == "UNAVAILABLE"
        with played(port=port):
            time.sleep(1.2)
            assert infer(store.url, request(3)).model_name == "m"


def test_a_slow_target(target: Played, tmp_path: Path, log: Path) -> None:
    target.stall = 1.5
    options = ("--target", target.url, "--path", str(tmp_path / "r"), "--timeout", "0.3")
    with processes.store(log, *options) as store:
        code, text = error(store.url, request(1))
        assert code == "DEADLINE_EXCEEDED"
        assert "did not answer within 0.3 s" in text
    assert not list((tmp_path / "r").iterdir())


def test_a_caller_that_gives_up_does_not_lose_the_recording(
    target: Played, tmp_path: Path, log: Path
) -> None:
    target.stall = 0.5
    with processes.store(log, "--target", target.url, "--path", str(tmp_path / "r")) as store:
        assert error(store.url, request(1), timeout=0.2)[0] == "DEADLINE_EXCEEDED"
        infer(store.url, request(1))
    assert target.asked["ModelInfer"] == 1


def test_identical_requests_in_flight_are_sent_once(target: Played, tmp_path: Path, log: Path) -> None:
    target.stall = 0.5
    with (
        processes.store(log, "collect", "--target", target.url, "--path", str(tmp_path / "r")) as store,
        ThreadPoolExecutor(12) as pool,
    ):
        asked = [pool.submit(infer, store.url, request(number % 2, id=str(number))) for number in range(12)]
        answers = [each.result() for each in asked]
    assert target.asked["ModelInfer"] == 2
    for number, answer in enumerate(answers):
        assert answer.id == str(number)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [number % 2]


def test_headers_are_passed_on_and_not_recorded(target: Played, tmp_path: Path, log: Path) -> None:
    with processes.store(log, "--target", target.url, "--path", str(tmp_path / "r")) as store:
        infer(store.url, request(1), metadata=[("authorization", "Bearer secret")])
        body = {"inputs": [{"name": "X", "shape": [1], "datatype": "FP32", "data": [2]}]}
        headers = {"authorization": "Bearer secret"}
        httpx.post(f"http://{store.http_url}/v2/models/m/infer", json=body, headers=headers, trust_env=False)
    assert [each["authorization"] for each in target.metadata] == ["Bearer secret"] * 2
    assert not any(b"secret" in file.read_bytes() for file in (tmp_path / "r").iterdir())


def test_sigterm_ends_what_is_in_flight(target: Played, tmp_path: Path, log: Path) -> None:
    target.stall = 1.0
    with (
        processes.store(log, "--target", target.url, "--path", str(tmp_path / "r")) as store,
        ThreadPoolExecutor(2) as pool,
        grpcclient.InferenceServerClient(store.url) as client,
    ):
        # A stream that nothing is asked in keeps nobody waiting.
        client.start_stream(lambda **_: None)
        body = {"inputs": [{"name": "X", "shape": [1], "datatype": "FP32", "data": [2]}]}
        url = f"http://{store.http_url}/v2/models/m/infer"
        asked = pool.submit(infer, store.url, request(1))
        posted = pool.submit(httpx.post, url, json=body, trust_env=False, timeout=20)
        while target.asked["ModelInfer"] < 2:
            time.sleep(0.02)
        began = time.monotonic()
        store.process.send_signal(signal.SIGTERM)
        assert asked.result().model_name == "m"
        assert posted.result().status_code == 200
        assert store.process.wait(20) == 0
        assert time.monotonic() - began < 15
    assert len(list((tmp_path / "r").iterdir())) == 2


def test_two_stores_cannot_share_a_port(tmp_path: Path, log: Path) -> None:
    with processes.store(log, "serve", "--path", str(tmp_path)) as store:
        refused = processes.run(
            "serve", "--path", str(tmp_path), "--listen", store.url, "--http-listen", "off"
        )
        assert refused.returncode == 2
        assert store.url in refused.stderr.splitlines()[-1]


def test_shared_memory_is_refused(target: Played, tmp_path: Path, log: Path) -> None:
    with processes.store(log, "--target", target.url, "--path", str(tmp_path / "r")) as store:
        with (
            grpcclient.InferenceServerClient(store.url) as client,
            pytest.raises(InferenceServerException, match="send them in the request") as raised,
        ):
            client.register_system_shared_memory("region", "/region", 64)
        assert raised.value.status() == "StatusCode.UNIMPLEMENTED"
        message = service_pb2.ModelInferRequest(model_name="m")
        tensor = message.inputs.add(name="X", datatype="FP32", shape=[1])
        tensor.parameters["shared_memory_region"].string_param = "region"
        assert error(store.url, message)[0] == "UNIMPLEMENTED"
    assert not target.asked


def test_threads_of_one_client(target: Played, tmp_path: Path, log: Path) -> None:
    """Many requests at once, each answered with its own content."""
    wrong: list[int] = []
    with processes.store(log, "--target", target.url, "--path", str(tmp_path / "r")) as store:

        def run(start: int) -> None:
            with grpc.insecure_channel(store.url) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                for number in [*range(start, start + 40), *range(start, start + 40)]:
                    answer = stub.ModelInfer(request(number, id=f"{number}"))
                    value = np.frombuffer(answer.raw_output_contents[1], np.float32)[0]
                    if (answer.id, value) != (f"{number}", number):
                        wrong.append(number)

        threads = [threading.Thread(target=run, args=(start * 20,)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
    assert len(list((tmp_path / "r").iterdir())) == 100
