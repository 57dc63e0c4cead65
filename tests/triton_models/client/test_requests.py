"""Answers of Triton, and calls that nobody may take back."""

import asyncio
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.tiny_repository import with_server
from triton_models.client.client import TritonClient
from triton_models.client.errors import TokensNotServed, TritonTimeout, WrongAnswer
from triton_models.client.requests import embeddings

ROWS = np.array([[1, 2, 3]], dtype=np.int64)
IMAGE = np.zeros((1, 4, 4, 3), np.uint8)


def answer(*shape: int) -> service_pb2.ModelInferResponse:
    response = service_pb2.ModelInferResponse()
    response.outputs.add(name="sentence_embedding", datatype="FP32", shape=shape)
    response.raw_output_contents.append(np.ones(shape, np.float32).tobytes())
    return response


def test_an_answer_has_the_shape_that_was_asked_for() -> None:
    for shape in ((2, 8), (2, 3, 8)):
        found = embeddings(answer(*shape), *shape[:-1])
        assert found is not None
        assert found.shape == shape
        with pytest.raises(WrongAnswer, match="another shape"):
            embeddings(answer(*shape), 5, *shape[1:-1])


def test_a_backend_that_knows_no_tokens_is_told_from_a_wrong_answer() -> None:
    # NVIDIA's own backend masks the flag and pools.
    with pytest.raises(TokensNotServed):
        embeddings(answer(2, 8), 2, 3)


def test_an_answer_without_a_vector_is_none() -> None:
    assert embeddings(service_pb2.ModelInferResponse(), 1) is None


class SlowServicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Takes its time, and counts the calls that were taken back meanwhile."""

    SECONDS = 0.6

    def __init__(self) -> None:
        self.finished = self.taken_back = 0

    async def ModelInfer(self, request: object, context: object) -> Any:  # noqa: ANN401, N802, ARG002
        try:
            await asyncio.sleep(self.SECONDS)
        except asyncio.CancelledError:
            self.taken_back += 1
            raise
        self.finished += 1
        return service_pb2.ModelInferResponse()


def test_a_call_under_way_is_never_taken_back() -> None:
    # Triton 2.51 can crash when one is.
    servicer = SlowServicer()

    async def work(client: TritonClient) -> None:
        out_of_time = [
            client.infer("any", 1, ROWS, timeout=0.2),
            client.infer_images("any", 1, IMAGE, timeout=0.2),
        ]
        for answer in await asyncio.gather(*out_of_time, return_exceptions=True):
            assert isinstance(answer, TritonTimeout)
        given_up = [
            client.infer("any", 1, ROWS, timeout=20),
            client.infer_images("any", 1, IMAGE, timeout=20),
        ]
        tasks = [asyncio.create_task(call) for call in given_up]
        await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        for answer in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(answer, asyncio.CancelledError)
        await asyncio.sleep(2 * servicer.SECONDS)
        assert (servicer.finished, servicer.taken_back) == (4, 0)

    with_server(servicer, work)
