"""What only the real server shows: merging, its cache, and versions."""

import asyncio

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.tiny_onnx import DIMENSIONS, expected, table
from tests.support.tiny_repository import LOAD_SECONDS, RunningTriton, install, statistics
from triton_models.client.client import TritonClient
from triton_models.client.errors import InferenceRejected
from triton_models.contract.tokens import mark_past_cache

SIX = np.array([12, 13, 14, 15, 16, 17], np.int64)


def test_requests_of_unequal_lengths_are_merged(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "merged", seed=1, work=1500)

    async def run() -> int:
        async with TritonClient(triton.url) as client:
            await client.load("merged", LOAD_SECONDS)
            requests = [np.full((1, length), length) for length in range(1, 17)]
            answers = await asyncio.gather(
                *(client.infer("merged", recorded.version, rows, timeout=20) for rows in requests)
            )
            for rows, answer in zip(requests, answers, strict=True):
                np.testing.assert_allclose(answer, expected(1, rows), atol=1e-6)
            found = await statistics(client, "merged", inferences=16)
            assert found["inference_count"] == 16
            return int(found["execution_count"])

    assert asyncio.run(run()) <= 4


async def _raw(url: str, name: str, version: int, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Send rows as they are, past the client that marks them."""
    request = service_pb2.ModelInferRequest(model_name=name, model_version=str(version))
    request.inputs.add(name="input_ids", datatype="INT64", shape=rows.shape)
    request.outputs.add(name="sentence_embedding")
    request.raw_input_contents.append(rows.tobytes())
    async with grpc.aio.insecure_channel(url) as channel:
        response = await service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=5)
    return np.frombuffer(response.raw_output_contents[0], np.float32).reshape(-1, DIMENSIONS)


def test_bare_ids_of_another_shape_get_a_wrong_answer_from_the_cache(triton: RunningTriton) -> None:
    # The fault of the server that the marks are for. If this fails, it is mended there.
    recorded = install(triton.repository, "bare", seed=1)

    async def run() -> None:
        async with TritonClient(triton.url) as client:
            await client.load("bare", LOAD_SECONDS)
        assert (await _raw(triton.url, "bare", recorded.version, SIX.reshape(2, 3))).shape[0] == 2
        assert (await _raw(triton.url, "bare", recorded.version, SIX.reshape(1, 6))).shape[0] == 2

    asyncio.run(run())


def test_marked_rows_of_another_shape_get_their_own_vectors(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "marked", seed=1)

    async def run() -> None:
        async with TritonClient(triton.url) as client:
            await client.load("marked", LOAD_SECONDS)
            for _ in range(2):
                for shape in ((2, 3), (1, 6), (3, 2), (6, 1)):
                    rows = SIX.reshape(shape)
                    got = await client.infer("marked", recorded.version, rows, timeout=5)
                    np.testing.assert_allclose(got, expected(1, rows), atol=1e-6)
            hits = (await statistics(client, "marked", inferences=12))["inference_stats"]["cache_hit"]
            assert hits["count"] == 4

    asyncio.run(run())


def test_a_model_replaced_under_its_name_never_answers_with_the_old_vectors(triton: RunningTriton) -> None:
    rows = SIX.reshape(2, 3)

    async def run() -> None:
        async with TritonClient(triton.url) as client:
            for seed in (1, 2, 1):
                recorded = install(triton.repository, "replaced", seed=seed)
                await client.load("replaced", LOAD_SECONDS)
                for _ in range(2):
                    got = await client.infer("replaced", recorded.version, rows, timeout=5)
                    np.testing.assert_allclose(got, expected(seed, rows), atol=1e-6)
                await client.unload("replaced", LOAD_SECONDS)

    asyncio.run(run())


def test_a_loaded_model_serves_on_while_its_files_are_replaced(triton: RunningTriton) -> None:
    async def run() -> None:
        async with TritonClient(triton.url) as client:
            first = install(triton.repository, "steady", seed=1)
            await client.load("steady", LOAD_SECONDS)
            second = install(triton.repository, "steady", seed=2)
            for rows in (SIX.reshape(1, 6), SIX[:5].reshape(1, 5)):
                got = await client.infer("steady", first.version, rows, timeout=5)
                np.testing.assert_allclose(got, expected(1, rows), atol=1e-6)
            await client.load("steady", LOAD_SECONDS)
            got = await client.infer("steady", second.version, SIX.reshape(1, 6), timeout=5)
            np.testing.assert_allclose(got, expected(2, SIX.reshape(1, 6)), atol=1e-6)

    asyncio.run(run())


def test_passing_by_the_cache_computes_again(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "fresh", seed=1)
    rows = SIX.reshape(2, 3)

    async def run() -> None:
        async with TritonClient(triton.url) as client:
            await client.load("fresh", LOAD_SECONDS)
            for sent in (rows, mark_past_cache(rows)):
                got = await client.infer("fresh", recorded.version, sent, timeout=5)
                np.testing.assert_allclose(got, expected(1, rows), atol=1e-6)
            assert (await statistics(client, "fresh", inferences=4))["inference_count"] == 4

    asyncio.run(run())


def test_vectors_of_texts_and_of_tokens_never_answer_each_other(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "tokens", seed=1, token_dimensions=DIMENSIONS)

    async def ask(client: TritonClient, rows: NDArray[np.int64], *, tokens: bool) -> None:
        got = await client.infer("tokens", recorded.version, rows, timeout=5, tokens=tokens)
        np.testing.assert_allclose(got, table(1)[rows] if tokens else expected(1, rows), atol=1e-6)

    async def run() -> None:
        async with TritonClient(triton.url) as client:
            await client.load("tokens", LOAD_SECONDS)
            for tokens in (False, True, False, True, True):
                for shape in ((1, 6), (2, 3)):
                    await ask(client, SIX.reshape(shape), tokens=tokens)
            # The first of each kind and shape is computed, the others come from the cache.
            hits = (await statistics(client, "tokens", inferences=15))["inference_stats"]["cache_hit"]
            assert hits["count"] == 6

    asyncio.run(run())


def test_requests_for_texts_and_for_tokens_share_a_batch(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "both", seed=1, work=1500, token_dimensions=DIMENSIONS)

    async def run() -> int:
        async with TritonClient(triton.url) as client:
            await client.load("both", LOAD_SECONDS)
            requests = [np.full((1, length), length) for length in range(1, 17)]
            answers = await asyncio.gather(
                *(
                    client.infer("both", recorded.version, rows, timeout=20, tokens=rows.size % 2 == 0)
                    for rows in requests
                )
            )
            for rows, answer in zip(requests, answers, strict=True):
                wanted = table(1)[rows] if rows.size % 2 == 0 else expected(1, rows)
                np.testing.assert_allclose(answer, wanted, atol=1e-6)
            found = await statistics(client, "both", inferences=16)
            return int(found["execution_count"])

    assert asyncio.run(run()) <= 4


def test_a_model_without_vectors_of_tokens_refuses_to_give_them(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "pooled", seed=1)
    rows = SIX.reshape(1, 6)

    async def run() -> None:
        async with TritonClient(triton.url) as client:
            await client.load("pooled", LOAD_SECONDS)
            for _ in range(2):
                with pytest.raises(InferenceRejected, match=r"without vectors of tokens|could not compute"):
                    await client.infer("pooled", recorded.version, rows, timeout=5, tokens=True)
                got = await client.infer("pooled", recorded.version, rows, timeout=5)
                np.testing.assert_allclose(got, expected(1, rows), atol=1e-6)

    asyncio.run(run())
