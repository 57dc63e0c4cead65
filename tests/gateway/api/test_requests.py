"""How requests are written: packed bodies, slashes too many, HEAD."""

import asyncio
import gzip
import json
import re
import zlib
from typing import Any

import httpx
import pytest

from gateway.api.request_body import SMALL
from tests.conftest import MINILM
from tests.gateway.middleware.test_fast_path import BODIES, application, post
from tests.support.app_without_triton import asking
from tests.support.event_loop import turns_during

LIMIT = 8 << 20


def packed(encoding: str, content: bytes) -> bytes:
    return gzip.compress(content) if "gzip" in encoding else zlib.compress(content)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip", "deflate", "identity"])
@pytest.mark.parametrize("path", ["/infer_text", "/v1/embeddings"])
def test_a_packed_body_is_the_body(path: str, encoding: str) -> None:
    content = json.dumps(BODIES[path]).encode()
    sent = content if encoding == "identity" else packed(encoding.lower(), content)
    plain = post(application(), path, content=content)
    answer = post(application(), path, content=sent, headers={"Content-Encoding": encoding})
    assert answer.status_code == plain.status_code == 200, answer.text
    assert answer.json().keys() == plain.json().keys()


def parts(content: bytes, size: int) -> Any:  # noqa: ANN401 - an asynchronous iterator
    async def iterate() -> Any:  # noqa: ANN401 - as above
        for start in range(0, len(content), size):
            yield content[start : start + size]

    return iterate()


@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_it_may_come_in_parts(size: int) -> None:
    content = gzip.compress(json.dumps(BODIES["/infer_text"]).encode())
    answer = post(
        application(), "/infer_text", content=parts(content, size), headers={"Content-Encoding": "gzip"}
    )
    assert answer.status_code == 200, answer.text


def test_a_large_packed_body_is_read() -> None:
    content = json.dumps({"model_name": "a/model", "text": ["a" * (SMALL // 2)] * 3}).encode()
    answer = post(
        application(), "/infer_text", content=gzip.compress(content), headers={"Content-Encoding": "gzip"}
    )
    # The application of the tests takes no more than that.
    assert answer.status_code == 413
    assert "longer than it said" in answer.json()["detail"]


GZIP = gzip.compress(json.dumps(BODIES["/infer_text"]).encode())
UNREADABLE = {
    "another encoding": ("br", b"a", 415, "Content-Encoding: only gzip and deflate"),
    "two encodings": ("gzip, gzip", GZIP, 415, "Content-Encoding: only gzip and deflate"),
    "no gzip": ("gzip", b'{"model_name": "m"}', 422, "the body is no gzip"),
    "a part of it": ("gzip", GZIP[:-9], 422, "the body ends inside its gzip"),
    "more than it": ("gzip", GZIP + b"a", 422, "bytes follow the end of the gzip"),
    "nothing": ("gzip", b"", 422, "the body ends inside its gzip"),
    "a bomb": (
        "gzip",
        gzip.compress(b" " * (1 << 27)),
        413,
        "the unpacked body is larger than 67108864 bytes",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_unpacked_is_refused(name: str) -> None:
    encoding, content, status, message = UNREADABLE[name]
    answer = post(application(), "/infer_text", content=content, headers={"Content-Encoding": encoding})
    assert (answer.status_code, answer.json()["detail"][: len(message)]) == (status, message)
    asked = post(application(), "/v1/embeddings", content=content, headers={"Content-Encoding": encoding})
    assert asked.status_code == status
    assert asked.json()["error"]["message"].startswith(message)


def test_unpacking_leaves_the_event_loop_to_others() -> None:
    """A bomb of 64 KB is 64 MB."""

    async def asked() -> int:
        transport = httpx.ASGITransport(application())
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            answer = await client.post(
                "/infer_text",
                content=gzip.compress(b" " * (63 << 20)),
                headers={"Content-Encoding": "gzip"},
            )
        return answer.status_code

    status, turns = asyncio.run(turns_during(asked()))
    assert status == 413
    assert turns > 100


SLASHES = {
    "/infer_text/": "/infer_text",
    "//infer_text": "/infer_text",
    "/v1//embeddings": "/v1/embeddings",
    "/v1/embeddings/": "/v1/embeddings",
    "//v1/embeddings//": "/v1/embeddings",
}


@pytest.mark.parametrize("path", SLASHES)
def test_slashes_too_many_are_no_matter(path: str) -> None:
    # Whole URLs: the client takes `//infer_text` for a host. Below /api it is a path of FastAPI's router.
    for url in (f"http://server{path}", f"/api{path}"):
        answer = post(application(), url, json=BODIES[SLASHES[path]])
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "path", ["/load_clip_model", "/load_model", "/unload_model", "/delete_model", "/metrics"]
)
def test_but_at_what_a_proxy_may_forbid(path: str) -> None:
    """It forbids `/load_`: what begins otherwise must be another path."""
    with asking() as client:
        assert client.post(f"http://127.0.0.1:8686/{path}", json={}).status_code == 404
        assert client.post(f"{path}/", json={}, follow_redirects=False).status_code in (307, 404)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"/tei/{MINILM}/", {"inputs": "a"}),
        (f"/tei/{MINILM}//", {"inputs": "a"}),
        (f"/tei/{MINILM}//embed", {"inputs": "a"}),
        (f"/tei/{MINILM}/embed/", {"inputs": "a"}),
        (f"/tei/{MINILM}//v1/embeddings", {"input": "a"}),
        (f"/weaviate/{MINILM}//vectors", {"text": "a"}),
        ("//embed_text", {"name": MINILM, "text": "a"}),
    ],
)
def test_base_urls_may_end_in_a_slash(client: httpx.Client, path: str, body: dict[str, Any]) -> None:
    answer = client.post(f"{str(client.base_url).rstrip('/')}{path}", json=body)
    assert answer.status_code == 200, answer.text


def test_head_is_get_without_the_body(client: httpx.Client) -> None:
    for path in (
        "/health",
        "/health/live",
        "/loaded_models",
        "/repository_models",
        "/v1/models",
        f"/v1/models/{MINILM}",
        "/metrics",
        "/metrics/prometheus",
        f"/tei/{MINILM}/info",
        f"/tei/{MINILM}/health",
        f"/weaviate/{MINILM}/meta",
        f"/weaviate/{MINILM}/.well-known/ready",
        f"/model_embedding_size?name={MINILM}",
        "/openapi.json",
        "/docs",
    ):
        head, get = client.head(path), client.get(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert (
            head.headers["content-type"] == get.headers["content-type"]
            if "content-type" in get.headers
            else True
        )
    assert client.head("/infer").status_code == 405
    assert client.head("/v1/models/tiny/none").status_code == 404
    # The connection is as it should be.
    assert client.get("/health/live").json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("route", "body", "message"),
    [
        ("rerank", {"query": "a", "texts": ["b"]}, "is not a re-ranker model"),
        ("predict", {"inputs": ["a", "b"]}, "is not a re-ranker model"),
        ("embed_sparse", {"inputs": "a"}, "model is not an embedding model with Splade pooling"),
    ],
)
def test_routes_of_tei_for_other_kinds_of_models(
    client: httpx.Client, route: str, body: dict[str, Any], message: str
) -> None:
    answer = client.post(f"/tei/{MINILM}/{route}", json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")
    assert message in answer.json()["error"]
    assert client.post(f"/tei/tiny/none/{route}", json=body).status_code == 404


def test_the_info_of_tei_has_what_its_schema_requires(client: httpx.Client) -> None:
    for model in (MINILM, "tiny/static"):
        info = client.get(f"/tei/{model}/info").json()
        whole = ("max_concurrent_requests", "max_input_length", "max_batch_tokens", "max_client_batch_size")
        for name in (*whole, "tokenization_workers"):
            assert type(info[name]) is int, name
            assert info[name] > 0
        assert isinstance(info["model_type"]["embedding"]["pooling"], str)
        assert info.keys() >= {"model_id", "model_sha", "model_dtype", "auto_truncate", "version"}
        assert info.keys() >= {"max_batch_requests", "sha", "docker_label"}


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/infer", {"model_name": MINILM, "text": "a" * 1_000_001}, "text"),
        ("/infer_text", {"model_name": MINILM, "text": "a " * 999, "truncate": False}, "text"),
        ("/v1/embeddings", {"model": MINILM, "input": "a " * 999, "truncate": False}, "input"),
        ("/v1/embeddings", {"model": MINILM, "input": "a" * 1_000_001}, "input"),
        (f"/tei/{MINILM}/embed", {"inputs": "a " * 999}, "inputs"),
        (f"/tei/{MINILM}/embed_all", {"inputs": "a " * 999}, "inputs"),
        (f"/tei/{MINILM}/tokenize", {"inputs": "a" * 1_000_001}, "inputs"),
        (
            f"/tei/{MINILM}/similarity",
            {"inputs": {"source_sentence": "a", "sentences": ["b", "a " * 999]}},
            r"inputs\.sentences\.1",
        ),
        (
            f"/tei/{MINILM}",
            {"inputs": {"source_sentence": "a " * 999, "sentences": ["b"]}},
            r"inputs\.source_sentence",
        ),
        (f"/weaviate/{MINILM}/vectors", {"text": "a" * 1_000_001}, "text"),
        ("/embed_text", {"name": MINILM, "text": "a" * 1_000_001}, "text"),
        ("/embed", {"name": MINILM, "text": ["a" * 1_000_001]}, r"text\.0"),
        ("/infer", {"model_name": MINILM, "text": ["a" * 1_000_001]}, r"text\.0"),
    ],
)
def test_the_place_of_a_single_text_has_no_index(
    client: httpx.Client, path: str, body: dict[str, Any], place: str
) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code in (413, 422), answer.text
    found = answer.json()
    message = found.get("detail") or found["error"]
    message = message["message"] if isinstance(message, dict) else message
    assert re.match(rf"{place}: \d+ (tokens|characters)", message), message
