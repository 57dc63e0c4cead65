"""In an overload requests are refused before they are made: the same answers, and nobody else's but those."""

import json
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

import app as application
from gateway.api.request_body import SMALL
from gateway.server import http_protocol
from gateway.settings import Settings
from gateway.shedding import Shedder
from tests.support.overloaded import FREE, FULL, Embedder, serving

TEXT_ROUTES = ("/infer", "/infer_text", "/v1/embeddings")
LONG_WAY = {"Origin": "http://a.page"}
"""Nothing that a web page asks is refused early."""

KEY = "a-key-of-the-operator"


@pytest.fixture
def embedder() -> Embedder:
    return Embedder()


@pytest.fixture
def settings() -> Settings:
    return Settings(load_models=())


@pytest.fixture
def port(embedder: Embedder, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    with serving(embedder, settings, monkeypatch) as port:
        yield port


@pytest.fixture
def client(port: int) -> Iterator[httpx.Client]:
    headers = {"X-Request-ID": "one", "Date": "now"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=20) as client:
        yield client


def body(route: str, model: str = FULL, texts: Any = "a dog") -> dict[str, Any]:  # noqa: ANN401
    if route.startswith("/v1"):
        return {"model": model, "input": texts}
    return {"model_name": model, "text": texts}


def refusals(route: str) -> float:
    labels = {"route": route, "status": "429"}
    return REGISTRY.get_sample_value("embedding_http_requests_total", labels) or 0


@pytest.mark.parametrize("route", TEXT_ROUTES)
@pytest.mark.parametrize("texts", ["a dog", ["a dog", "a cat"]])
def test_a_refusal_is_the_same_by_either_way(
    client: httpx.Client,
    embedder: Embedder,
    route: str,
    texts: Any,  # noqa: ANN401
) -> None:
    before = refusals(route)
    early = client.post(route, json=body(route, texts=texts))
    assert embedder.asked == []
    late = client.post(route, json=body(route, texts=texts), headers=LONG_WAY)
    number = 1 if isinstance(texts, str) else len(texts)
    assert embedder.asked == [number]
    assert embedder.refused == [number] * 2
    assert early.status_code == late.status_code == 429
    assert early.json() == late.json()
    assert {**early.headers, "date": ""} == {**late.headers, "date": ""}
    assert early.headers["retry-after"] == "7"
    assert early.headers["x-request-id"] == "one"
    assert refusals(route) == before + 2


def test_a_refused_connection_is_kept(client: httpx.Client, embedder: Embedder) -> None:
    for _ in range(50):
        assert client.post("/infer_text", json=body("/infer_text")).status_code == 429
        assert client.post("/infer_text", json=body("/infer_text", FREE)).status_code == 200
    assert embedder.asked == [1] * 50


@pytest.mark.parametrize("route", TEXT_ROUTES)
def test_who_is_not_to_be_refused_is_answered(client: httpx.Client, embedder: Embedder, route: str) -> None:
    texts = [f"text {n}" for n in range(300)]
    free = client.post(route, json=body(route, FREE, texts))
    assert free.status_code == 200
    embedder.is_overloaded = False
    assert client.post(route, json=body(route)).status_code == 429
    assert embedder.asked == [300, 1]


OTHERS: dict[str, tuple[str, dict[str, Any], int]] = {
    "no JSON": ("/infer_text", {"content": b"{"}, 422),
    "not the fields": ("/infer_text", {"json": {"model_name": FULL, "texts": "a"}}, 422),
    "no model's name": ("/v1/embeddings", {"json": {"model": "../a", "input": "a"}}, 404),
    "no text": ("/infer_text", {"json": body("/infer_text", texts=[])}, 422),
    "an unknown route": ("/infer_texts", {"json": body("/infer_text")}, 404),
    "a query": ("/infer_text?a=b", {"json": body("/infer_text")}, 429),
    "a large body": ("/infer_text", {"json": body("/infer_text", texts="a" * (SMALL + 1))}, 429),
    "a body in chunks": ("/infer_text", {"content": iter([json.dumps(body("/infer_text")).encode()])}, 429),
    "the last of a connection": (
        "/infer_text",
        {"json": body("/infer_text"), "headers": {"Connection": "close"}},
        429,
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_plain_request_is_answered_as_ever(
    client: httpx.Client, embedder: Embedder, case: str
) -> None:
    path, request, status = OTHERS[case]
    assert client.post(path, **request).status_code == status
    assert len(embedder.asked) == len(embedder.refused) == (status == 429)


def test_another_method_is_answered_as_ever(client: httpx.Client, embedder: Embedder) -> None:
    assert client.request("GET", "/infer_text", json=body("/infer_text")).status_code == 405
    assert embedder.refused == []


class TestWithKeys:
    """What is waiting is nothing to strangers."""

    @pytest.fixture
    def settings(self) -> Settings:
        return Settings(load_models=(), api_keys=(KEY,))

    def test_a_key_is_needed_to_be_told(self, client: httpx.Client, embedder: Embedder) -> None:
        for wrong in ({}, {"Authorization": "Bearer another"}, {"Authorization": KEY}):
            answer = client.post("/infer_text", json=body("/infer_text"), headers=wrong)
            assert answer.status_code == 401
        assert embedder.refused == []
        with_key = {"Authorization": f"Bearer {KEY}"}
        assert client.post("/infer_text", json=body("/infer_text"), headers=with_key).status_code == 429
        assert embedder.refused == [1]
        assert embedder.asked == []


def test_requests_are_answered_in_the_order_in_which_they_came(port: int, embedder: Embedder) -> None:
    """In one packet, refused ones and others: those after one that was let in have to wait for it."""
    models = [FULL, FREE, FULL, FULL, FREE]
    content = [json.dumps(body("/infer_text", model)).encode() for model in models]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"".join(head(len(one)) + one for one in content))
        assert statuses(connection, len(models)) == [429, 200, 429, 429, 200]
        # The first one did not wait to be let in, and what came later is a request like the first.
        assert embedder.asked == [1] * 4
        connection.sendall(head(len(content[0])) + content[0])
        assert statuses(connection, 1) == [429]
        assert embedder.asked == [1] * 4


@pytest.mark.parametrize("cut", [0, 1, 20])
@pytest.mark.parametrize(("model", "status"), [(FREE, 200), (FULL, 429)])
def test_a_body_in_parts_is_waited_for(
    port: int, embedder: Embedder, cut: int, model: str, status: int
) -> None:
    content = json.dumps(body("/infer_text", model)).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head(len(content)) + content[:cut])
        time.sleep(0.2)
        connection.sendall(content[cut:])
        assert statuses(connection, 1) == [status]
    assert len(embedder.asked) == (model == FREE)


def test_a_body_that_does_not_come_ends_the_connection(
    port: int, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "STALLED_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head(100) + b"{")
        assert connection.makefile("rb").readline() == b"HTTP/1.1 408 Request Timeout\r\n"
    assert embedder.asked == embedder.refused == []


def test_a_body_that_takes_long_is_waited_for(
    port: int, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "STALLED_SECONDS", 0.2)
    content = json.dumps(body("/infer_text", FREE, "a" * 20 * (1 << 14))).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head(len(content)))
        for start in range(0, len(content), 1 << 14):
            connection.sendall(content[start : start + (1 << 14)])
            time.sleep(0.05)
        assert statuses(connection, 1) == [200]
    assert embedder.asked == [1]


@pytest.mark.parametrize("begun", [False, True])
def test_after_the_signal_to_end_all_hear_of_that(embedder: Embedder, begun: bool) -> None:
    ending = SimpleNamespace(begun=begun)
    shedder = Shedder(embedder, application.keys(Settings()), ending)  # type: ignore[arg-type]
    content = json.dumps(body("/infer_text")).encode()
    assert (shedder.refusal(b"/infer_text", [], content) is None) == begun


def head(length: int) -> bytes:
    return b"POST /infer_text HTTP/1.1\r\nHost: server\r\nContent-Length: %d\r\n\r\n" % length


def statuses(connection: socket.socket, number: int) -> list[int]:
    """Of so many answers, each with its length."""
    found, reader = [], connection.makefile("rb")
    for _ in range(number):
        found.append(int(reader.readline().split()[1]))
        length = 0
        while (line := reader.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        assert len(reader.read(length)) == length > 0
    return found
