"""A tokenizer that panics, fails, or takes long: one request's error, with its id and the body of its API."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Server
from tests.support.converted_models import BERT, Stock

PANICS, SLOW = "tiny/panics", "tiny/slow"
EVIL = "Q" + "a" * 40 + "b"
"""A text on which the first model's regular expression gives up, which is a panic of the library."""

Change = Callable[[dict[str, Any], dict[str, Any]], None]


def put(stock: Stock, repository: Path, name: str, change: Change) -> None:
    """A stock model with another tokenizer, as an older conversion could have left it."""
    (directory,) = stock.put(repository, BERT, name)
    (file,) = directory.glob("*/tokenizer.json")
    manifest = file.with_name("model.json")
    spec, recorded = json.loads(file.read_text()), json.loads(manifest.read_text())
    change(spec, recorded)
    file.write_text(json.dumps(spec))
    recorded["tokenizer_sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(recorded))


def panics(spec: dict[str, Any], _: dict[str, Any]) -> None:
    evil = {"type": "Replace", "pattern": {"Regex": "Q(a*)*$"}, "content": "z"}
    spec["normalizer"] = {"type": "Sequence", "normalizers": [evil, spec["normalizer"]]}
    spec["decoder"] = {
        "type": "Sequence",
        "decoders": [{"type": "Fuse"}, {"type": "Replace", "pattern": {"Regex": "(a*)*$"}, "content": "z"}],
    }


def slow(spec: dict[str, Any], recorded: dict[str, Any]) -> None:
    evil = {"type": "Replace", "pattern": {"Regex": "\\s+$"}, "content": "z"}
    spec["normalizer"] = {"type": "Sequence", "normalizers": [evil, spec["normalizer"]]}
    recorded["max_characters"] = 8192


@pytest.fixture(scope="module")
def loaded(server: Server, stock: Stock) -> Iterator[None]:
    for name, change in ((PANICS, panics), (SLOW, slow)):
        put(stock, server.repository, name, change)
    with server.client() as client:
        for name in (PANICS, SLOW):
            answer = client.post("/load_sentence_transformer_model", json={"model_name": name})
            assert answer.status_code == 200, answer.text
        yield
        for name in (PANICS, SLOW):
            client.post("/delete_model", json={"model_name": name})


A = 5
"""The id of `a` in the tiny vocabulary."""


@pytest.mark.usefixtures("loaded")
@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/infer", {"model_name": PANICS, "text": ["a", "b", EVIL]}, "text.2: "),
        ("/infer_text", {"model_name": PANICS, "text": EVIL}, "text: "),
        ("/infer_text", {"model_name": PANICS, "text": ["a " * 9000, EVIL]}, "text.1: "),
        ("/v1/embeddings", {"model": PANICS, "input": ["a", EVIL]}, "input.1: "),
        (f"/tei/{PANICS}/embed", {"inputs": ["a", EVIL]}, "inputs.1: "),
        (f"/tei/{PANICS}/tokenize", {"inputs": ["a", EVIL]}, "inputs.1: "),
        (f"/weaviate/{PANICS}/vectors", {"text": EVIL}, "text"),
        ("/embed_text", {"name": PANICS, "text": EVIL}, "text: "),
    ],
)
def test_a_panic_is_the_error_of_one_text(
    client: httpx.Client, path: str, body: dict[str, Any], place: str
) -> None:
    answer = client.post(path, json=body, headers={"X-Request-ID": "mine"})
    assert answer.status_code == 422, answer.text
    assert answer.headers["x-request-id"] == "mine"
    assert set(answer.json()) & {"detail", "error"}
    assert place in answer.text
    assert "the model's tokenizer fails on this text" in answer.text
    good = client.post("/infer_text", json={"model_name": PANICS, "text": "a"})
    assert good.status_code == 200


@pytest.mark.usefixtures("loaded")
def test_a_panic_in_decoding_is_the_error_of_its_ids(client: httpx.Client) -> None:
    words = client.post(f"/tei/{PANICS}/tokenize", json={"inputs": "a b", "add_special_tokens": False}).json()
    a, b = (token["id"] for token in words[0])
    answer = client.post(f"/tei/{PANICS}/decode", json={"ids": [[a], [*[a] * 40, b]]})
    assert answer.status_code == 422, answer.text
    assert "ids.1: the model's tokenizer fails on these ids" in answer.text


@pytest.mark.usefixtures("loaded")
def test_a_slow_tokenizer_holds_neither_the_loop_nor_its_request(
    client: httpx.Client, server: Server
) -> None:
    answer = client.post("/infer_text", json={"model_name": SLOW, "text": ["a", "a" * 8193]})
    assert answer.status_code == 413
    assert answer.json()["detail"] == "text.1: 8193 characters; this model takes 8192"
    assert client.post(f"/tei/{SLOW}/decode", json={"ids": [[A] * 9000]}).status_code == 413
    assert client.post("/infer_text", json={"model_name": SLOW, "text": "a dog "}).status_code == 200

    spaces = " " * 8000 + "a"
    body = {"model_name": SLOW, "text": [spaces] * 64, "timeout_ms": 1000}
    found: list[int] = []
    asking = threading.Thread(
        target=lambda: found.append(httpx.post(f"{server.url}/infer_text", json=body, timeout=60).status_code)
    )
    start = time.monotonic()
    asking.start()
    time.sleep(0.2)
    assert client.get("/health/live").status_code == 200
    alive = time.monotonic() - start
    asking.join()
    # All 64 take half a minute, and held the event loop as long.
    assert found == [504]
    assert alive < 5
    assert time.monotonic() - start < 10
    plain = {"Accept": "text/plain"}
    while "embedding_tokenizing_threads 0.0" not in client.get("/metrics", headers=plain).text:
        assert time.monotonic() - start < 20
        time.sleep(0.1)
