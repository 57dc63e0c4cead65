"""Reranking and scores of pairs in each API's form, with values of the library, through Triton."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder
from torch import nn

from converters.verification.check_texts import check_texts
from tests.conftest import Server
from tests.support.converted_models import LABELS, RANKER, STATIC, Stock

QUERY = "the quick brown fox"
DOCUMENTS = ["over the lazy dog", "", "a server turns sentences into vectors", "素早い茶色の狐 " * 40]
WITHIN = 1e-3
COHERE = {"model": RANKER, "query": QUERY, "documents": DOCUMENTS}
TEI = {"query": QUERY, "texts": DOCUMENTS}


@pytest.fixture
def ranks(rank_server: Server) -> Iterator[httpx.Client]:
    with rank_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def reference(stock: Stock) -> CrossEncoder:
    # More threads would wait for cores that the server has.
    torch.set_num_threads(1)
    model: CrossEncoder = CrossEncoder(str(stock.sources / RANKER), device="cpu")
    return model


def logits(reference: CrossEncoder, query: str, documents: list[str]) -> NDArray[np.float32]:
    pairs = [(query, document) for document in documents]
    found = reference.predict(pairs, activation_fn=nn.Identity(), show_progress_bar=False)
    return np.asarray(found, np.float32)


def sigmoid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(1 / (1 + np.exp(-values.astype(np.float64))), np.float32)


def asked(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def by_index(results: list[dict[str, Any]], name: str) -> NDArray[np.float32]:
    found = {row["index"]: row[name] for row in results}
    assert sorted(found) == list(range(len(results)))
    scores = [row[name] for row in results]
    assert scores == sorted(scores, reverse=True)
    return np.array([found[index] for index in sorted(found)], np.float32)


def test_our_own_form_is_predict(ranks: httpx.Client, reference: CrossEncoder) -> None:
    body = {"model_name": RANKER, "query": QUERY, "documents": DOCUMENTS}
    answer = asked(ranks, "/rerank", body)
    expected = reference.predict([(QUERY, document) for document in DOCUMENTS], batch_size=1)
    np.testing.assert_allclose(by_index(answer["results"], "relevance_score"), expected, atol=1e-5)
    assert (answer["model"], answer["activation"]) == (RANKER, "sigmoid")
    assert all("document" not in row for row in answer["results"])
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 4 * len(DOCUMENTS)
    raw = asked(ranks, "/rerank", {**body, "raw_scores": True, "return_documents": True, "top_n": 2})
    assert raw["activation"] == "identity"
    best = np.argsort(-logits(reference, QUERY, DOCUMENTS))[:2]
    assert [row["index"] for row in raw["results"]] == best.tolist()
    assert [row["document"]["text"] for row in raw["results"]] == [DOCUMENTS[index] for index in best]
    prompted = asked(ranks, "/rerank", {**body, "prompt": "question: ", "raw_scores": True})["results"]
    expected = logits(reference, f"question: {QUERY}", DOCUMENTS)
    np.testing.assert_allclose(by_index(prompted, "relevance_score"), expected, atol=WITHIN)


@pytest.mark.parametrize("path", ["/rerank", f"/tei/{RANKER}/rerank"])
def test_tei_s_form(path: str, ranks: httpx.Client, reference: CrossEncoder) -> None:
    expected = logits(reference, QUERY, DOCUMENTS)
    answer = asked(ranks, path, TEI)
    np.testing.assert_allclose(by_index(answer, "score"), sigmoid(expected), atol=1e-5)
    assert set(answer[0]) == {"index", "score"}
    body = {**TEI, "raw_scores": True, "return_text": True, "truncate": True, "truncation_direction": "Right"}
    answer = asked(ranks, path, {**body, "a_field_of_nobody": 1})
    np.testing.assert_allclose(by_index(answer, "score"), expected, atol=WITHIN)
    assert all(row["text"] == DOCUMENTS[row["index"]] for row in answer)
    left = asked(ranks, path, {**body, "truncation_direction": "Left", "texts": ["dog " * 60 + "fox"]})
    right = asked(ranks, path, {**body, "texts": ["dog " * 60 + "fox"]})
    assert abs(left[0]["score"] - right[0]["score"]) > WITHIN


def test_the_form_of_cohere_jina_and_vllm(ranks: httpx.Client, reference: CrossEncoder) -> None:
    expected = sigmoid(logits(reference, QUERY, DOCUMENTS))
    for path, shows in (("/rerank", True), ("/v1/rerank", True), ("/v2/rerank", False)):
        answer = asked(ranks, path, {**COHERE, "max_tokens_per_doc": 4096, "priority": 0, "top_n": 0})
        np.testing.assert_allclose(by_index(answer["results"], "relevance_score"), expected, atol=1e-5)
        assert all(("document" in row) == shows for row in answer["results"])
        assert answer["meta"]["api_version"]["version"] == ("2" if "v2" in path else "1")
        assert (answer["activation"], answer["object"], answer["model"]) == ("sigmoid", "rerank", RANKER)
        assert answer["id"]
    objects = [{"text": text, "id": 7} for text in DOCUMENTS]
    body = {"query": {"text": QUERY}, "documents": objects, "top_n": 1, "return_documents": True}
    (best,) = asked(ranks, "/v1/rerank", body)["results"]
    assert best["document"] == {"text": DOCUMENTS[best["index"]]}
    assert "document" not in asked(ranks, "/v1/rerank", {**COHERE, "return_documents": False})["results"][0]
    for field in ({"raw_scores": True}, {"use_activation": False}):
        answer = asked(ranks, "/v1/rerank", {**COHERE, **field})
        assert answer["activation"] == "identity"


def test_weaviate_s_form_keeps_the_order(ranks: httpx.Client, reference: CrossEncoder) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "property": ""}
    answer = asked(ranks, f"/weaviate/{RANKER}/rerank", body)
    assert [row["document"] for row in answer["scores"]] == DOCUMENTS
    expected = sigmoid(logits(reference, QUERY, DOCUMENTS))
    np.testing.assert_allclose([row["score"] for row in answer["scores"]], expected, atol=1e-5)
    assert ranks.get(f"/weaviate/{RANKER}/.well-known/ready").status_code == 204
    assert ranks.get(f"/weaviate/{RANKER}/meta").json()["model_name"] == RANKER


def test_predict_and_score(ranks: httpx.Client, reference: CrossEncoder) -> None:
    expected = logits(reference, QUERY, DOCUMENTS)
    (one,) = asked(ranks, "/predict", {"inputs": [QUERY, DOCUMENTS[0]]})
    assert one == {"score": pytest.approx(float(sigmoid(expected)[0]), abs=1e-5), "label": "LABEL_0"}
    pairs = [[QUERY, document] for document in DOCUMENTS]
    rows = asked(ranks, f"/tei/{RANKER}/predict", {"inputs": pairs, "raw_scores": True})
    np.testing.assert_allclose([row[0]["score"] for row in rows], expected, atol=WITHIN)
    sides = (
        {"text_1": QUERY, "text_2": DOCUMENTS},
        {"data_1": [QUERY] * len(DOCUMENTS), "data_2": DOCUMENTS},
        {"queries": [QUERY], "items": DOCUMENTS},
    )
    for path in ("/score", "/v1/score"):
        for side in sides:
            data = asked(ranks, path, side)["data"]
            assert [row["index"] for row in data] == list(range(len(DOCUMENTS)))
            np.testing.assert_allclose([row["score"] for row in data], sigmoid(expected), atol=1e-5)


def test_in_bulk_and_many_at_once_with_the_cache(rank_server: Server, reference: CrossEncoder) -> None:
    choice = random.Random(5)
    texts = [text for text in check_texts() if text.strip()]
    documents = [choice.choice(texts) for _ in range(120)]
    queries = [" ".join(choice.choice(texts).split()[:8]) for _ in range(3)]
    expected = {query: logits(reference, query, documents) for query in queries}

    def ask(number: int) -> float:
        query = queries[number % len(queries)]
        start = number * 4
        some = slice(0, 120) if number % 2 else slice(start, start + 10)
        body = {"model_name": RANKER, "query": query, "documents": documents[some], "raw_scores": True}
        with rank_server.client() as client:
            found = by_index(asked(client, "/rerank", body)["results"], "relevance_score")
        return float(np.abs(found - expected[query][some]).max())

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(ask, range(16))) < WITHIN


def test_pairs_are_cached_one_by_one(ranks: httpx.Client) -> None:
    def hits() -> int:
        stats = ranks.get("/metrics").json()["model_stats"]
        (model,) = (model for model in stats if model["name"] == RANKER.replace("/", "_"))
        return int(model["inference_stats"]["cache_hit"]["count"])

    documents = [f"a document of its own {number}" for number in range(40)]
    body = {"model_name": RANKER, "query": "of its own", "documents": documents}
    first = asked(ranks, "/rerank", body)["results"]
    before = hits()
    again = asked(ranks, "/rerank", {**body, "documents": documents[::-1]})["results"]
    assert hits() - before == len(documents)
    assert [row["relevance_score"] for row in again] == [row["relevance_score"] for row in first]


def test_a_large_body(ranks: httpx.Client, reference: CrossEncoder) -> None:
    documents = ["fox " * 5000 + str(number) for number in range(80)]
    assert sum(map(len, documents)) > 1 << 20
    for form in (documents, [{"text": text} for text in documents]):
        answer = asked(
            ranks, "/v1/rerank", {"query": QUERY, "documents": form, "raw_scores": True, "top_n": 1}
        )
        expected = logits(reference, QUERY, ["fox " * 100])
        assert answer["results"][0]["relevance_score"] == pytest.approx(float(expected[0]), abs=WITHIN)
    pairs = [[QUERY, text] for text in documents]
    rows = asked(ranks, "/predict", {"inputs": pairs, "raw_scores": True})
    assert rows[0][0]["score"] == pytest.approx(float(expected[0]), abs=WITHIN)


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/rerank", {"model_name": RANKER, "query": "a"}, 422, {"detail": "documents: send documents"}),
        (
            "/rerank",
            {"model_name": RANKER, "query": "a", "documents": ["b"], "topn": 1},
            422,
            {"detail": "topn"},
        ),
        (
            "/rerank",
            {"query": "a", "texts": []},
            400,
            {"error": "texts: an empty list", "error_type": "Empty"},
        ),
        (
            "/rerank",
            {**TEI, "truncate": False},
            413,
            {"error": "texts.3: ", "error_type": "Validation"},
        ),
        (
            "/v1/rerank",
            {**COHERE, "model": STATIC},
            400,
            {"detail": "is not a re-ranker", "message": "embeds"},
        ),
        ("/v2/rerank", {**COHERE, "model": "none"}, 404, {"message": f"Loaded: {RANKER}, {STATIC}"}),
        ("/v1/rerank", {"query": "a"}, 422, {"message": "documents"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": -1}, 422, {"message": "top_n"}),
        (f"/weaviate/{STATIC}/rerank", {**COHERE, "property": ""}, 400, {"error": "is not a re-ranker"}),
        (f"/tei/{STATIC}/rerank", TEI, 424, {"error": "is not a re-ranker", "error_type": "Backend"}),
        ("/predict", {"inputs": ["one"]}, 422, {"error": "inputs: 1 texts"}),
        ("/predict", {"inputs": [["a", "b"], ["a"]]}, 422, {"error": "inputs.1: 1 texts"}),
        ("/infer", {"model_name": RANKER, "text": "a"}, 400, {"detail": "POST /rerank"}),
        (f"/tei/{RANKER}/embed", {"inputs": "a"}, 424, {"error": "POST /rerank"}),
    ],
)
def test_errors(
    path: str, body: dict[str, Any], status: int, error: dict[str, str], ranks: httpx.Client
) -> None:
    answer = ranks.post(path, json=body)
    assert answer.status_code == status, answer.text
    for name, part in error.items():
        assert part in answer.json()[name], answer.text


def test_the_kind_is_told(ranks: httpx.Client) -> None:
    kinds = {RANKER: "cross-encoder", STATIC: "embedding"}
    listed = {model["id"]: model["kind"] for model in ranks.get("/v1/models").json()["data"]}
    assert {name: listed[name] for name in kinds} == kinds
    known = {model["model_name"]: model["kind"] for model in ranks.get("/repository_models").json()["models"]}
    assert {name: known[name] for name in kinds} == kinds
    info = ranks.get(f"/tei/{RANKER}/info").json()
    assert info["model_type"] == {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}


def test_a_model_with_several_labels(ranks: httpx.Client, stock: Stock) -> None:
    load = {"name": LABELS, "library": "sentence_transformers"}
    assert ranks.post("/load_model", json=load).status_code == 200
    try:
        # Two cross-encoders are loaded, so a request must name one.
        answer = ranks.post("/rerank", json=TEI)
        assert answer.status_code == 424
        assert f"{LABELS}, {RANKER}" in answer.json()["error"]
        answer = ranks.post("/v1/rerank", json={**COHERE, "model": LABELS})
        assert (answer.status_code, "POST /predict" in answer.json()["message"]) == (400, True)
        pairs = [[QUERY, document] for document in DOCUMENTS]
        reference = CrossEncoder(str(stock.sources / LABELS), device="cpu")
        expected = reference.predict([tuple(pair) for pair in pairs], batch_size=1, apply_softmax=True)
        rows = asked(ranks, f"/tei/{LABELS}/predict", {"inputs": pairs})
        for row, scores in zip(rows, expected, strict=True):
            found = {one["label"]: one["score"] for one in row}
            assert [one["score"] for one in row] == sorted(found.values(), reverse=True)
            np.testing.assert_allclose([found[f"LABEL_{n}"] for n in range(3)], scores, atol=1e-4)
        assert "classifier" in ranks.get(f"/tei/{LABELS}/info").json()["model_type"]
    finally:
        ranks.post("/unload_model", json={"model_name": LABELS})
