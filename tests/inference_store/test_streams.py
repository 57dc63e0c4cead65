"""Streams that carry several requests at once: whose answer is whose, however the server mixes them."""

import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.inference_store import processes
from tests.inference_store.played_target import OPTIONS
from tests.inference_store.test_modes import request


class Mixing(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # generated, untyped
    """Takes two requests, then gives two answers to each, in turns and the later request's first."""

    asked = 0

    def ModelStreamInfer(  # noqa: N802 - the service's name
        self, requests: Iterator[service_pb2.ModelInferRequest], _context: grpc.ServicerContext
    ) -> Iterator[service_pb2.ModelStreamInferResponse]:
        for first in requests:
            pair = [next(requests), first]
            self.asked += 2
            for last in (False, True):
                for one in pair:
                    answer = service_pb2.ModelStreamInferResponse()
                    answer.infer_response.id = one.id
                    answer.infer_response.outputs.add(name=f"last={last}", datatype="FP32", shape=[1])
                    answer.infer_response.raw_output_contents.append(one.raw_input_contents[0])
                    answer.infer_response.parameters["triton_final_response"].bool_param = last
                    yield answer


@contextmanager
def mixing() -> Iterator[tuple[Mixing, str]]:
    server, servicer = grpc.server(ThreadPoolExecutor(4), options=OPTIONS), Mixing()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer, f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def ask(url: str, values: list[float], answers: int) -> list[tuple[str, float, str]]:
    """(id, value, output) of each answer as they arrive; every request has a value and an id of its own."""
    sent: queue.Queue[Any] = queue.Queue()
    for value in values:
        sent.put(request(value, id=f"id {value}"))
    with grpc.insecure_channel(url) as channel:
        received = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter(sent.get, None))
        found = []
        for _ in range(answers):
            answer = next(received).infer_response
            value = float(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])
            found.append((answer.id, value, answer.outputs[0].name))
        sent.put(None)
        assert not list(received)
    return found


def test_answers_that_come_mixed(tmp_path: Path, log: Path) -> None:
    with (
        mixing() as (target, url),
        processes.store(log, "--target", url, "--path", str(tmp_path / "r")) as store,
    ):
        found = ask(store.url, [1, 2, 3, 4], 8)
        for value in (1, 2, 3, 4):
            mine = [each for each in found if each[0] == f"id {value}"]
            assert mine == [(f"id {value}", value, "last=False"), (f"id {value}", value, "last=True")]
        # Replayed in another order, beside new ones.
        again = ask(store.url, [4, 5, 1, 6], 8)
        assert sorted(again) == sorted(
            (f"id {value}", value, f"last={last}") for value in (1, 4, 5, 6) for last in (False, True)
        )
        assert target.asked == 6


def test_a_target_that_ends_the_stream(tmp_path: Path, log: Path) -> None:
    """What is recorded is answered, the rest ends the client's stream with the reason."""
    options = ("--path", str(tmp_path / "r"))
    with mixing() as (_, url), processes.store(log, "--target", url, *options) as store:
        ask(store.url, [1, 2], 4)
    with processes.store(log, "--target", url, *options) as store:
        assert len(ask(store.url, [1, 2], 4)) == 4
        with grpc.insecure_channel(store.url) as channel:
            received = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([request(3)]))
            with pytest.raises(grpc.RpcError) as raised:
                list(received)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        assert url in (raised.value.details() or "")
