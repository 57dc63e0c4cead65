"""What every request meets first: its id, and limits on what it carries."""

import httpx
import orjson
import pytest

from tests.conftest import MINILM
from tests.support.app_without_triton import ANOTHER, asking, bearer

LONGEST = 1_000_000
"""MAX_TEXT_CHARACTERS as it is unless set."""


@pytest.mark.parametrize("given", ["abc-1", "a" * 128, "4bf92f35/77:b3.4da_6~a3=ce+92@9"])
def test_a_request_keeps_its_id(given: str) -> None:
    client = asking(api_keys="e", cors_origins=ANOTHER)
    for path in ("/health/live", "/infer", "/nothing"):
        assert client.get(path, headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "a\tb", "<script>", "a]b", "\u00e9"])
def test_an_id_that_could_do_harm_in_a_log_is_replaced(given: str) -> None:
    client = asking()
    headers = {"X-Request-ID": given.encode()}
    answers = [client.get("/health/live", headers=headers) for _ in range(2)]  # type: ignore[arg-type]
    made = {answer.headers["x-request-id"] for answer in answers}
    assert len(made) == 2
    assert all(len(one) == 16 for one in made)


def test_every_refusal_carries_an_id() -> None:
    client = asking(api_keys="e", max_body_bytes=1024, cors_origins=ANOTHER)
    answers = [
        client.get("/loaded_models"),
        client.post("/infer", content="x" * 2048, headers=bearer("e")),
        client.get("/loaded_models", headers=bearer("e")),
        client.options("/infer", headers={"Origin": ANOTHER}),
    ]
    assert [answer.status_code for answer in answers][:3] == [401, 413, 500]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 4


def test_a_body_of_any_depth_is_refused_like_another(client: httpx.Client) -> None:
    for depth in (100, 10_000, 100_000):
        body = b'{"model_name": "a", "text": ' + b"[" * depth + b"]" * depth + b"}"
        answer = client.post("/infer_text", content=body)
        assert answer.status_code == 422
        assert len(answer.json()["detail"]) < 300


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        ("/infer_text", {"model_name": MINILM, "text": ["a", "{}"]}, "text.1:"),
        ("/infer", {"model_name": MINILM, "text": "{}"}, "text:"),
        ("/v1/embeddings", {"model": MINILM, "input": ["a", "b", "{}"]}, "input.2:"),
        (f"/tei/{MINILM}/embed", {"inputs": ["{}"]}, "inputs.0:"),
        (f"/tei/{MINILM}/tokenize", {"inputs": ["a", "{}"]}, "inputs.1:"),
        (f"/weaviate/{MINILM}/vectors", {"text": "{}"}, "text:"),
        ("/embed_text", {"name": MINILM, "text": "{}"}, "text:"),
    ],
)
def test_a_text_beyond_any_use_is_refused_with_its_index(
    client: httpx.Client, path: str, body: dict[str, object], place: str
) -> None:
    sent = orjson.dumps(body).replace(b"{}", b"a" * (LONGEST + 1))
    answer = client.post(path, content=sent)
    assert answer.status_code == 413
    assert f"{place} {LONGEST + 1} characters" in answer.text
    assert str(LONGEST) in answer.text


def test_a_text_at_the_limit_is_embedded(client: httpx.Client) -> None:
    answer = client.post("/infer_text", json={"model_name": MINILM, "text": "a" * LONGEST})
    assert answer.status_code == 200


def test_the_id_goes_to_triton_and_not_into_its_cache(client: httpx.Client) -> None:
    """The same text under other ids is answered from the cache."""
    body = {"model_name": MINILM, "text": "a text that no other test has: 5f1c"}

    def hits() -> int:
        found = client.get("/metrics").json()["model_stats"]
        return next(
            int(model["inference_stats"]["cache_hit"]["count"])
            for model in found
            if "MiniLM" in model["name"]
        )

    first = client.post("/infer_text", json=body, headers={"X-Request-ID": "one"}).json()["embedding"]
    before = hits()
    for given in ("two", "three"):
        answer = client.post("/infer_text", json=body, headers={"X-Request-ID": given})
        assert answer.json()["embedding"] == first
    assert hits() == before + 2
