"""Vectors that are not finite: no backend's answer, nothing a cache keeps, an error each time."""

import asyncio
import warnings
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.tiny_onnx import DIMENSIONS, expected
from tests.support.tiny_repository import LOAD_SECONDS, RunningTriton, install, with_server
from triton_models.client.client import TritonClient
from triton_models.client.errors import InferenceRejected, NotFinite
from triton_models.client.requests import text_request
from triton_models.contract.accuracy import first_not_finite
from triton_models.contract.tokens import mark_rows
from triton_models.repository.repository import MODEL

ROWS = np.array([[2, 3, 4], [5, 6, 7]], np.int64)


def test_the_first_row_that_is_not_finite_is_found() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape in ((1, 8), (5, 384), (3, 7, 384), (40, 1024)):
            vectors = np.full(shape, np.finfo(np.float32).max, np.float32)
            vectors[..., ::2] *= -1
            assert first_not_finite(vectors) is None
            for value in (np.nan, np.inf, -np.inf):
                for row in {0, shape[0] - 1}:
                    spoilt = vectors.copy()
                    spoilt[row, ..., -1] = value
                    spoilt[-1, ..., 0] = value
                    assert first_not_finite(spoilt) == row
                    spoilt *= np.float32(1e-30)
                    assert first_not_finite(spoilt) == row
        assert first_not_finite(np.empty((0, 8), np.float32)) is None


class NotFiniteServicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers as NVIDIA's backend does where a model computes NaN: with it, for the second of two rows."""

    async def ModelInfer(self, request: object, context: object) -> Any:  # noqa: ANN401, N802, ARG002
        response = service_pb2.ModelInferResponse(model_name="any")
        response.outputs.add(name="sentence_embedding", datatype="FP32", shape=[2, DIMENSIONS])
        vectors = np.zeros((2, DIMENSIONS), np.float32)
        vectors[1, 3] = np.nan
        response.raw_output_contents.append(vectors.tobytes())
        return response


def test_vectors_that_are_not_finite_are_no_answer_of_any_backend() -> None:
    async def work(client: TritonClient) -> None:
        with pytest.raises(NotFinite) as raised:
            await client.infer("any", 1, ROWS, timeout=5)
        assert raised.value.row == 1

    with_server(NotFiniteServicer(), work)


def test_a_text_without_a_finite_vector_gets_its_error_each_time(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "overflowing", seed=1, token_dimensions=DIMENSIONS)
    path = triton.repository.version_dir("overflowing") / MODEL
    spoil(path, {50: np.nan, 51: np.inf, 52: 3e38})

    async def work(client: TritonClient) -> None:
        await client.load("overflowing", LOAD_SECONDS)

        async def infer(rows: NDArray[np.int64], *, tokens: bool = False) -> Any:  # noqa: ANN401
            return await client.infer("overflowing", recorded.version, rows, timeout=5, tokens=tokens)

        for tokens in (False, True):
            for word in (50, 51):
                bad = np.array([[1, 2], [3, word]])
                for _ in range(4):
                    with pytest.raises(NotFinite) as raised:
                        await infer(bad, tokens=tokens)
                    assert raised.value.row == 1
        # Each of them is finite, their sum is not.
        np.testing.assert_array_equal(
            await infer(np.array([[52]])), np.full((1, DIMENSIONS), 3e38, np.float32)
        )
        with pytest.raises(NotFinite):
            await infer(np.array([[52, 52]]))
        np.testing.assert_allclose(await infer(ROWS), expected(1, ROWS), atol=1e-6)
        # A good version that takes its place answers what this one could not.
        good = install(triton.repository, "overflowing", seed=2)
        await client.load("overflowing", LOAD_SECONDS)
        bad = np.array([[1, 2], [3, 50]])
        vectors = await client.infer("overflowing", good.version, bad, timeout=5)
        np.testing.assert_allclose(vectors, expected(2, bad), atol=1e-6)

    async def run() -> None:
        async with TritonClient(triton.url) as client:
            await work(client)

    asyncio.run(run())


def test_triton_s_cache_gets_no_vector_that_is_not_finite(triton: RunningTriton) -> None:
    """Asked without our client, which would refuse such a vector too."""
    recorded = install(triton.repository, "uncached", seed=1)
    spoil(triton.repository.version_dir("uncached") / MODEL, {50: np.nan})
    bad = text_request("uncached", recorded.version, mark_rows(np.array([[1, 2], [3, 50]])))

    async def run() -> None:
        async with (
            TritonClient(triton.url) as client,
            grpc.aio.insecure_channel(triton.url) as channel,
        ):
            await client.load("uncached", LOAD_SECONDS)
            infer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            with pytest.raises(grpc.aio.AioRpcError, match="the vector of row 1 is not finite") as raised:
                await infer(bad, timeout=LOAD_SECONDS)
            assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            # The cache has the failure, and no number of it.
            assert not (await infer(bad, timeout=LOAD_SECONDS)).raw_output_contents

    asyncio.run(run())


def test_a_planted_row_gets_its_error_each_time(triton: RunningTriton) -> None:
    """Triton keeps a failure as an empty answer; the row is asked again beside a random one then."""
    recorded = install(triton.repository, "planted", seed=1, vocab_size=50, planted_id=50)
    spoil(triton.repository.version_dir("planted") / MODEL, {50: np.nan})

    async def run() -> None:
        async with TritonClient(triton.url) as client:
            await client.load("planted", LOAD_SECONDS)
            for _ in range(10):
                with pytest.raises(NotFinite) as raised:
                    await client.infer("planted", recorded.version, np.array([[50]]), timeout=LOAD_SECONDS)
                assert raised.value.row == 0
            for bad in ([[50, 1]], [[51]]):
                with pytest.raises(InferenceRejected, match="outside the vocabulary"):
                    await client.infer("planted", recorded.version, np.array(bad), timeout=LOAD_SECONDS)

    asyncio.run(run())


def spoil(path: Path, words: dict[int, float]) -> None:
    """Give words vectors of one number."""
    model = onnx.load(path)
    (table,) = (weight for weight in model.graph.initializer if weight.name == "table")
    rows = numpy_helper.to_array(table).copy()
    for word, number in words.items():
        rows[word] = number
    table.CopyFrom(numpy_helper.from_array(rows, table.name))
    onnx.save(model, path)
