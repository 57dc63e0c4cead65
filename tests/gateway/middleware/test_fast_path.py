"""The embedding routes ahead of FastAPI answer as FastAPI's own routes do."""

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.exceptions import HTTPException

from gateway.api.error_responses import CLIENT_GONE
from gateway.api.request_body import Bodies
from gateway.application import create_app
from gateway.errors import kinds
from gateway.inference.disconnect import WATCHED_AFTER, watch_caller
from gateway.inference.text import Embedded
from gateway.inference.vectors import Vectors
from gateway.middleware import fast_path
from gateway.model_id import ModelId
from gateway.settings import Settings
from gateway.text.prompts import DEFAULT, TextOptions
from triton_models.client.errors import InferenceRejected, TritonTimeout, TritonUnavailable


class Panic(BaseException):
    """As pyo3 raises it: none of `Exception`."""


MODEL = {"model_name": "a/model"}
BODIES: dict[str, dict[str, Any]] = {
    "/infer": {**MODEL, "text": "a dog", "image": ["a", "b"]},
    "/infer_text": {**MODEL, "text": "a dog"},
    "/infer_image": {**MODEL, "image": "a"},
    "/v1/embeddings": {"model": "a/model", "input": "a dog", "normalize": False},
}


LENGTH = [(b"content-length", b"100")]
FAILURES = [
    *(kind("what to change") for kind in kinds()),
    TritonTimeout("late"),
    TritonUnavailable("gone"),
    InferenceRejected("no"),
    HTTPException(413, "too much", {"X-Header": "kept"}),
    RuntimeError("a fault of ours"),
    Panic("of a library in Rust"),
]


class Catalog:
    """Knows a model of every name."""

    async def named(self, name: str) -> ModelId:
        return ModelId.parse(name)


class Embedder:
    """Answers with one vector, or fails as it is told."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self._failure = failure

    async def embed(
        self, _model: ModelId, inputs: list[str], *, normalize: bool, timeout_ms: int | None = None
    ) -> Vectors:
        assert timeout_ms is None
        if self._failure is not None:
            raise self._failure
        return np.full((len(inputs), 2), 0.5 if normalize else 0.25, np.float32)


class TextEmbedder(Embedder):
    """The same with the number of tokens."""

    async def embed(  # type: ignore[override]
        self,
        model: ModelId,
        inputs: list[str],
        *,
        normalize: bool,
        options: TextOptions,
        field: str = "",
        timeout_ms: int | None = None,
    ) -> Embedded:
        assert timeout_ms is None
        assert options is DEFAULT
        assert field in ("", "input")
        return Embedded(await super().embed(model, inputs, normalize=normalize), len(inputs))


def application(failure: BaseException | None = None) -> FastAPI:
    app = create_app(Settings(load_models=()))
    app.state.services = SimpleNamespace(
        bodies=Bodies(1 << 20, 5.0),
        catalog=Catalog(),
        embedder=TextEmbedder(failure),
        image_embedder=Embedder(failure),
    )
    return app


def post(app: FastAPI, path: str, **request: Any) -> httpx.Response:  # noqa: ANN401
    """The answer; what is mounted below /api is a path of FastAPI's router."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(
            app, raise_app_exceptions=False, root_path="/api" if path.startswith("/api") else ""
        )
        async with httpx.AsyncClient(
            transport=transport, base_url="http://server", headers={"X-Request-ID": "one"}
        ) as client:
            return await client.post(path, **request)

    return asyncio.run(ask())


def requests_counted(route: str, status: int) -> float:
    labels = {"route": route, "status": str(status)}
    return REGISTRY.get_sample_value("embedding_http_requests_total", labels) or 0


def test_each_is_a_documented_route() -> None:
    paths = application().openapi()["paths"]
    for path in fast_path.ROUTES:
        assert paths[path]["post"]["requestBody"]["required"]


@pytest.mark.parametrize("path", fast_path.ROUTES)
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_a_failure_has_one_answer(path: str, failure: BaseException) -> None:
    app = application(failure)
    body = BODIES[path]
    before = requests_counted(path, post(app, path, json=body).status_code)
    ahead, routed = post(app, path, json=body), post(app, f"/api{path}", json=body)
    assert ahead.status_code == routed.status_code >= 400
    assert ahead.headers == routed.headers
    assert ahead.json() == routed.json()
    assert set(ahead.json()) == {"error" if path.startswith("/v1/") else "detail"}
    assert requests_counted(path, ahead.status_code) == before + 2


@pytest.mark.parametrize("path", fast_path.ROUTES)
def test_an_answer_is_the_same_by_either_way(path: str) -> None:
    app = application()
    for body in (BODIES[path], {**BODIES[path], "normalize": True}):
        ahead, routed = post(app, path, json=body), post(app, f"/api{path}", json=body)
        assert ahead.status_code == routed.status_code == 200
        assert ahead.headers["content-type"] == routed.headers["content-type"] == "application/json"
        took = [answer.json().get("processingTimeMs", 1) for answer in (ahead, routed)]
        assert min(took) > 0
        vectors = [
            {key: value for key, value in answer.json().items() if key != "processingTimeMs"}
            for answer in (ahead, routed)
        ]
        assert vectors[0] == vectors[1]


def test_a_body_in_parts_is_one_body() -> None:
    async def parts() -> Any:  # noqa: ANN401
        for part in (b'{"model_name": "a/model", ', b'"text": ', b'["a", "b"]}'):
            yield part

    answer = post(application(), "/infer_text", content=parts())
    assert answer.json()["embedding"] == [[0.25, 0.25]] * 2


def test_a_client_that_goes_away_is_no_failure_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    app = application()
    messages = [{"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]
    scope = {"type": "http", "method": "POST", "path": "/infer_text", "query_string": b"", "headers": LENGTH}
    before = requests_counted("/infer_text", CLIENT_GONE)

    async def receive() -> Any:  # noqa: ANN401
        return messages.pop(0)

    async def send(_: Any) -> None:  # noqa: ANN401
        pass

    asyncio.run(app(scope, receive, send))
    assert requests_counted("/infer_text", CLIENT_GONE) == before + 1
    assert caplog.text == ""


@pytest.mark.parametrize("waits", [False, True])
def test_a_request_leaves_nothing_to_the_garbage_collector(waits: bool) -> None:
    """What it leaves makes collections, and those pauses for all that are under way."""
    answered = []

    async def inner(_scope: Any, _receive: Any, send: Any) -> None:  # noqa: ANN401 - of ASGI
        if waits:
            watch_caller()
            await asyncio.sleep(2 * WATCHED_AFTER)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> dict[str, str]:
        await asyncio.sleep(3600)
        return {}

    async def send(message: Any) -> None:  # noqa: ANN401 - as above
        answered.append(message)

    async def requests(number: int) -> None:
        layer = fast_path.FastPath(inner)
        scope = {"type": "http", "method": "GET", "path": "/"}
        await asyncio.gather(*(layer(dict(scope), receive, send) for _ in range(number)))

    async def left_by(number: int) -> int:
        await requests(number)
        await asyncio.sleep(0)
        gc.collect()
        gc.disable()
        await requests(number)
        await asyncio.sleep(0)
        return gc.collect()

    try:
        assert asyncio.run(left_by(100)) < 100
    finally:
        gc.enable()
    assert len(answered) == 400
