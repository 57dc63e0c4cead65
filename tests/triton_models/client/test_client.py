import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.support.tiny_onnx import DIMENSIONS, expected
from tests.support.tiny_repository import (
    LOAD_SECONDS,
    RunningTriton,
    install,
    start_server,
    statistics,
    with_server,
)
from triton_models.client.client import TritonClient
from triton_models.client.errors import (
    InferenceRejected,
    ModelLoadFailed,
    ModelNotReady,
    TritonTimeout,
    TritonUnavailable,
    WrongAnswer,
)
from triton_models.contract.config import DEFAULT_MAX_BATCH_SIZE
from triton_models.repository.repository import MODEL

ROWS = np.array([[2, 3, 4], [5, 6, 7]], np.int64)


def on(triton: RunningTriton, work: Any) -> Any:  # noqa: ANN401 - any coroutine function of a client
    async def run() -> Any:  # noqa: ANN401
        async with TritonClient(triton.url, channels=2) as client:
            return await work(client)

    return asyncio.run(run())


def test_vectors_come_back_in_order_and_type(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "vectors", seed=1)

    async def work(client: TritonClient) -> None:
        await client.load("vectors", LOAD_SECONDS)
        for rows in (ROWS, ROWS[:1], ROWS.reshape(6, 1), ROWS.reshape(1, 6)):
            got = await client.infer("vectors", recorded.version, rows, timeout=5)
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, expected(1, rows), atol=1e-6)

    on(triton, work)


def test_the_index_hides_what_is_not_a_model(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "indexed", seed=1)

    async def work(client: TritonClient) -> None:
        assert ("indexed", 0, "", "") in await client.index()
        await client.load("indexed", LOAD_SECONDS)
        entries = await client.index()
        assert ("indexed", recorded.version, "READY", "") in entries
        assert not any(entry.name.startswith(".") for entry in entries)

    on(triton, work)


def test_a_model_that_is_not_there_is_not_ready(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "sleeping", seed=1)

    async def work(client: TritonClient) -> None:
        for name, version in (("nope", 1), ("sleeping", recorded.version)):
            assert not await client.model_ready(name, version)
            with pytest.raises(ModelNotReady, match=name):
                await client.infer(name, version, ROWS, timeout=5)
        await client.load("sleeping", LOAD_SECONDS)
        assert await client.model_ready("sleeping", recorded.version)
        assert not await client.model_ready("sleeping", recorded.version + 2)
        with pytest.raises(ModelNotReady):
            await client.infer("sleeping", recorded.version + 2, ROWS, timeout=5)

    on(triton, work)


def test_unload_returns_when_the_model_is_gone(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "leaving", seed=1)

    async def work(client: TritonClient) -> None:
        await client.load("leaving", LOAD_SECONDS)
        await client.unload("leaving", LOAD_SECONDS)
        assert ("leaving", recorded.version, "UNAVAILABLE", "unloaded") in await client.index()
        with pytest.raises(ModelNotReady):
            await client.infer("leaving", recorded.version, ROWS, timeout=5)
        await client.unload("leaving", LOAD_SECONDS)
        await client.unload("never-there", LOAD_SECONDS)

    on(triton, work)


def test_a_failing_load_tells_the_reason_and_harms_nobody(triton: RunningTriton) -> None:
    install(triton.repository, "damaged", seed=1)
    (triton.repository.version_dir("damaged") / MODEL).write_bytes(b"junk")
    recorded = install(triton.repository, "unharmed", seed=1)

    async def work(client: TritonClient) -> None:
        await client.load("unharmed", LOAD_SECONDS)
        with pytest.raises(ModelLoadFailed) as raised:
            await client.load("damaged", LOAD_SECONDS)
        assert "Protobuf parsing failed" in raised.value.reason
        assert "/" not in str(raised.value)
        with pytest.raises(ModelLoadFailed):
            await client.load("never-there", LOAD_SECONDS)
        assert await client.server_ready()
        await client.infer("unharmed", recorded.version, ROWS, timeout=5)
        install(triton.repository, "damaged", seed=2)
        await client.load("damaged", LOAD_SECONDS)

    on(triton, work)


def test_a_request_that_cannot_be_computed_is_rejected_each_time(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "picky", seed=1)

    async def work(client: TritonClient) -> None:
        await client.load("picky", LOAD_SECONDS)
        outside, negative = np.array([[1, 100]]), np.array([[-1]])
        for rows in (outside, negative, np.zeros((1, 0), np.int64)):
            for _ in range(3):
                with pytest.raises(InferenceRejected, match="picky"):
                    await client.infer("picky", recorded.version, rows, timeout=5)
        # More rows than the model was loaded to take: what the caller knows of it is outdated.
        with pytest.raises(ModelNotReady, match="picky"):
            await client.infer(
                "picky", recorded.version, np.ones((DEFAULT_MAX_BATCH_SIZE + 1, 1), np.int64), timeout=5
            )

    on(triton, work)


def test_a_bad_request_does_not_touch_the_others_of_its_batch(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "mixed", seed=1, work=1500)

    async def work(client: TritonClient) -> None:
        await client.load("mixed", LOAD_SECONDS)
        requests = [np.full((1, 1 + index), 100 if index % 5 == 4 else index) for index in range(30)]
        answers = await asyncio.gather(
            *(client.infer("mixed", recorded.version, rows, timeout=20) for rows in requests),
            return_exceptions=True,
        )
        for rows, answer in zip(requests, answers, strict=True):
            if rows[0, 0] == 100:
                assert isinstance(answer, InferenceRejected)
            else:
                assert isinstance(answer, np.ndarray)
                np.testing.assert_allclose(answer, expected(1, rows), atol=1e-6)
        assert (await statistics(client, "mixed", inferences=1))["execution_count"] < 20

    on(triton, work)


def test_statistics_have_the_shape_of_the_contract(triton: RunningTriton) -> None:
    recorded = install(triton.repository, "counted", seed=1)

    async def work(client: TritonClient) -> None:
        await client.load("counted", LOAD_SECONDS)
        await client.infer("counted", recorded.version, ROWS, timeout=5)
        found = await statistics(client, "counted", inferences=2)
        assert found["version"] == str(recorded.version)
        assert (found["inference_count"], found["execution_count"]) == (2, 1)
        steps = {"queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"}
        assert set(found["inference_stats"]) == steps | {"success", "fail"}
        assert found["inference_stats"]["success"]["count"] == 1
        assert found["inference_stats"]["compute_infer"]["ns"] > 0
        assert [batch["batch_size"] for batch in found["batch_stats"]] == [2]

    on(triton, work)


def test_nobody_answers() -> None:
    async def run() -> None:
        async with TritonClient("127.0.0.1:1") as client:
            assert not await client.server_ready(1.0)
            for call in _calls(client):
                with pytest.raises(TritonUnavailable):
                    await call

    asyncio.run(run())


class HungServicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Takes every call and never answers."""

    async def _hang(self, request: object, context: object) -> None:  # noqa: ARG002 - gRPC calls it so
        await asyncio.sleep(600)

    ModelInfer = RepositoryModelLoad = RepositoryModelUnload = ServerLive = ModelReady = _hang


class GarbageServicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers every request with one row, whatever was asked."""

    async def ModelInfer(self, request: object, context: object) -> Any:  # noqa: ANN401, N802, ARG002
        response = service_pb2.ModelInferResponse()
        response.outputs.add(name="sentence_embedding", datatype="FP32", shape=[1, DIMENSIONS])
        response.raw_output_contents.append(bytes(4 * DIMENSIONS))
        return response


def test_every_call_has_a_deadline() -> None:
    async def work(client: TritonClient) -> None:
        assert not await client.server_ready(0.2)
        for call in _calls(client, timeout=0.2):
            with pytest.raises(TritonTimeout):
                await call

    with_server(HungServicer(), work)


def test_an_answer_of_another_shape_is_never_taken() -> None:
    async def work(client: TritonClient) -> None:
        with pytest.raises(WrongAnswer, match="another shape"):
            await client.infer("any", 1, ROWS, timeout=5)

    with_server(GarbageServicer(), work)


def test_a_server_that_stops_under_a_call_is_unavailable() -> None:
    async def run() -> None:
        server, port = await start_server(HungServicer())
        async with TritonClient(f"127.0.0.1:{port}") as client:
            call = asyncio.create_task(client.infer("any", 1, ROWS, timeout=20))
            await asyncio.sleep(0.2)
            await server.stop(None)
            with pytest.raises(TritonUnavailable):
                await call

    asyncio.run(run())


def test_a_client_that_is_closed_under_a_call_does_not_cancel_the_caller() -> None:
    async def run() -> None:
        server, port = await start_server(HungServicer())
        client = TritonClient(f"127.0.0.1:{port}")
        call = asyncio.create_task(client.infer("any", 1, ROWS, timeout=20))
        await asyncio.sleep(0.2)
        await client.close()
        with pytest.raises(TritonUnavailable):
            await call
        await server.stop(None)

    asyncio.run(run())


def test_a_caller_that_is_cancelled_stays_cancelled() -> None:
    async def work(client: TritonClient) -> None:
        call = asyncio.create_task(client.infer("any", 1, ROWS, timeout=20))
        await asyncio.sleep(0.2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    with_server(HungServicer(), work)


def _calls(client: TritonClient, timeout: float = 5) -> list[Coroutine[Any, Any, Any]]:
    return [
        client.infer("any", 1, ROWS, timeout=timeout),
        client.load("any", timeout),
        client.unload("any", timeout),
    ]
