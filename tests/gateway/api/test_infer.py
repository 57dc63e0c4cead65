"""Embeddings over HTTP, compared with sentence-transformers, on the real Triton."""

import asyncio
import random
from collections.abc import Sequence

import httpx
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from tests.conftest import MINILM, Server
from tests.support.vectors import cosines, embed

WORDS = (
    "the a river dog quickly embedding of und naïve 東京 мир search between 42 recommender's vector — "
    "photosynthesis small engine 🙂 café under glass seven green run runs running"
).split()


def sentences(count: int, seed: int, most: int = 40) -> list[str]:
    """Unique texts of mixed length."""
    rng = random.Random(seed)
    return [f"{index} " + " ".join(rng.choices(WORDS, k=rng.randint(1, most))) for index in range(count)]


async def concurrently(server: Server, texts: Sequence[str], connections: int) -> NDArray[np.float32]:
    """One request a text, `connections` at a time."""
    free = asyncio.Semaphore(connections)
    async with httpx.AsyncClient(base_url=server.url, timeout=300, trust_env=False) as client:

        async def one(text: str) -> list[float]:
            async with free:
                answer = await client.post("/infer_text", json={"model_name": MINILM, "text": text})
            assert answer.status_code == 200, answer.text
            return list(answer.json()["embedding"][0])

        return np.array(await asyncio.gather(*map(one, texts)), dtype=np.float32)


@pytest.fixture(scope="session")
def reference(minilm_path: str) -> SentenceTransformer:
    return SentenceTransformer(minilm_path, device="cpu")


def test_infer_answers_one_vector_for_each_text_in_order(
    client: httpx.Client, reference: SentenceTransformer
) -> None:
    answer = client.post("/infer", json={"model_name": MINILM, "text": ["a diver", "a dog"]})
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"text_embeddings", "image_embeddings", "processingTimeMs"}
    assert body["image_embeddings"] is None
    assert body["processingTimeMs"] > 0
    vectors = np.array(body["text_embeddings"], dtype=np.float32)
    assert cosines(vectors, reference.encode(["a diver", "a dog"])).min() >= 0.9999


def test_a_single_string_is_a_list_of_one(client: httpx.Client) -> None:
    assert embed(client, "a dog").tolist() == embed(client, ["a dog"]).tolist()


def test_vectors_are_the_references_under_load(server: Server, reference: SentenceTransformer) -> None:
    texts = sentences(400, seed=1)
    for index in range(0, 400, 50):
        texts[index] = f"{index} " + " ".join(random.Random(index).choices(WORDS, k=2000))
    vectors = asyncio.run(concurrently(server, texts, 32))
    assert cosines(vectors, reference.encode(texts)).min() >= 0.9999


def test_a_front_end_stays_small(server: Server) -> None:
    with server.client() as client:
        embed(client, sentences(1000, seed=4))
    assert server.process is not None
    assert psutil.Process(server.process.pid).memory_info().rss < 200_000_000


def test_a_large_request_answers_as_each_text_alone(client: httpx.Client) -> None:
    texts = sentences(300, seed=2, most=12)
    together = embed(client, texts)
    alone = np.concatenate([embed(client, text) for text in texts[::7]])
    assert cosines(together[::7], alone).min() >= 0.99999


def test_equal_bytes_are_not_taken_for_each_other_by_the_cache(
    client: httpx.Client, reference: SentenceTransformer
) -> None:
    # 17 texts of one length are grouped, 16 rows in one request. Joined by the special tokens that
    # end and begin a text, the same ids are one text: the same bytes, another shape.
    words = "dog cat cow fox bee ant rat bat car sun sea red blue green one two six".split()
    embed(client, words)
    joined = " [SEP] [CLS] ".join(words[:16])
    assert len(reference.tokenizer(joined)["input_ids"]) == 3 * 16
    assert cosines(embed(client, joined), reference.encode([joined])).min() >= 0.9999


def test_concurrent_texts_of_different_lengths_are_merged(server: Server, client: httpx.Client) -> None:
    def executions() -> int:
        stats = client.get("/metrics").json()["model_stats"]
        return sum(int(model["execution_count"]) for model in stats if "MiniLM" in model["name"])

    def attempt(number: int) -> int:
        texts = [f"{number} " + "word " * length for length in range(1, 17)]
        before = executions()
        asyncio.run(concurrently(server, texts, 16))
        return executions() - before

    # On busy cores the texts of one attempt may come one after the other; merged by length they never were.
    assert any(attempt(number) <= 4 for number in range(20))


def test_what_is_sent_holds_no_padding(client: httpx.Client, reference: SentenceTransformer) -> None:
    def tokens() -> float:
        text = client.get("/metrics", headers={"Accept": "text/plain"}).text
        lines = [
            line
            for line in text.splitlines()
            if line.startswith("embedding_tokens_total{") and "MiniLM" in line
        ]
        return float(lines[0].rpartition(" ")[2])

    texts = sentences(64, seed=3)
    before = tokens()
    embed(client, texts)
    assert tokens() - before == sum(len(reference.tokenizer(text)["input_ids"]) for text in texts)


@pytest.mark.parametrize(
    "text",
    ["", " ", "\0", "a\0b", "\u202e\ufeff", "x" * 1_000_000, "word " * 200_000],
    ids=["empty", "space", "null byte", "null byte inside", "control", "1 MB word", "1 MB of words"],
)
def test_unusual_texts_are_texts(client: httpx.Client, reference: SentenceTransformer, text: str) -> None:
    assert cosines(embed(client, text), reference.encode([text])).min() >= 0.9999


def test_normalize_scales_to_unit_length(client: httpx.Client) -> None:
    body = {"model_name": "tiny/static", "text": ["two words", "three more words"]}
    plain = np.array(client.post("/infer_text", json=body).json()["embedding"])
    scaled = np.array(client.post("/infer_text", json={**body, "normalize": True}).json()["embedding"])
    norms = np.linalg.norm(plain, axis=1, keepdims=True)
    assert np.abs(norms - 1).max() > 0.01
    assert np.abs(plain / norms - scaled).max() < 1e-6


def test_a_text_of_no_tokens_has_the_references_vector(client: httpx.Client, server: Server) -> None:
    path = next(path for path in server.environment["MODEL_SOURCES"].split(":"))
    reference = SentenceTransformer(f"{path}/tiny/static", device="cpu")
    assert embed(client, ["", "a dog"], "tiny/static")[0].tolist() == reference.encode([""])[0].tolist()


BAD_BODIES = {
    "not JSON": (b"{", "Invalid JSON"),
    "not an object": (b"[]", ""),
    "not UTF-8": (b'{"model_name": "m", "text": "\xff"}', "Invalid JSON"),
    "nothing to embed": (b'{"model_name": "m"}', "give text, image or both"),
    "no model": (b'{"text": "a"}', "model_name: Field required"),
    "empty list": (b'{"model_name": "m", "text": []}', "text: an empty list"),
    "a number": (b'{"model_name": "m", "text": 5}', "text: "),
    "a number in the list": (b'{"model_name": "m", "text": ["a", 5]}', "text.1: "),
    "null in the list": (b'{"model_name": "m", "text": [null]}', "text.0: "),
    "an object": (b'{"model_name": "m", "text": {"a": 1}}', "text: "),
    "lone surrogate": (b'{"model_name": "m", "text": ["a", "\\ud800"]}', "text.1: "),
    "a lone surrogate beside the texts": (
        b'{"model_name": "m", "text": "a", "prompt": "\\ud800"}',
        "prompt: ",
    ),
    "nested without end": (b'{"model_name": ' * 10_000, "Invalid JSON"),
    "nested without end, and large": (b'{"model_name": ' * 100_000, "lists, objects and fields"),
    "normalize is no truth value": (
        b'{"model_name": "m", "text": "a", "normalize": "perhaps"}',
        "normalize: ",
    ),
    "path": (b'{"model_name": "../../etc/passwd", "text": "a"}', "model_name"),
    "absolute path": (b'{"model_name": "/etc/passwd", "text": "a"}', "model_name"),
    "NUL": (b'{"model_name": "a\\u0000b", "text": "a"}', "model_name"),
    "leading dash": (b'{"model_name": "-rf", "text": "a"}', "model_name"),
    "300 characters": (b'{"model_name": "' + b"a" * 300 + b'", "text": "a"}', "model_name"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
@pytest.mark.parametrize("route", ["/infer", "/infer_text"])
def test_a_bad_body_is_a_422_that_says_where(client: httpx.Client, route: str, name: str) -> None:
    body, reason = BAD_BODIES[name]
    answer = client.post(route, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    detail = answer.json()["detail"]
    assert "\n" not in detail
    if name != "nothing to embed" or route == "/infer":
        assert reason in detail


def test_an_image_for_a_text_model_is_refused(client: httpx.Client) -> None:
    answer = client.post("/infer", json={"model_name": MINILM, "text": "a", "image": "aGVsbG8="})
    assert answer.status_code == 422
    assert "text only" in answer.json()["detail"]


def test_a_model_that_is_not_loaded_is_a_404_that_says_how(client: httpx.Client) -> None:
    answer = client.post("/infer_text", json={"model_name": "no/such", "text": "a"})
    assert answer.status_code == 404
    assert "/load_sentence_transformer_model" in answer.json()["detail"]


def test_a_served_name_is_not_a_model_name(client: httpx.Client) -> None:
    answer = client.post("/infer_text", json={"model_name": MINILM.replace("/", "_"), "text": "a"})
    assert answer.status_code == 404
    assert MINILM in answer.json()["detail"]


def test_too_many_texts_are_refused(client: httpx.Client) -> None:
    answer = client.post("/infer_text", json={"model_name": MINILM, "text": ["a"] * 10_000})
    assert answer.status_code == 413
    assert "4096" in answer.json()["detail"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(client: httpx.Client, chunked: bool) -> None:
    block = b" " * (1 << 20)
    content = (block for _ in range(65)) if chunked else block * 65
    try:
        answer = client.post("/infer_text", content=content)
    except httpx.WriteError:
        # The server answered and closed while the rest was still being sent, which is its right.
        return
    assert answer.status_code == 413
    assert "larger than" in answer.json()["detail"]


def test_an_unknown_route_and_method(client: httpx.Client) -> None:
    assert client.get("/nothing").json() == {"detail": "Not Found"}
    assert client.get("/infer").status_code == 405
