"""The API of Text Embeddings Inference, asked by Hugging Face's own client and as its OpenAPI says."""

import asyncio
import json
from typing import Any

import grpc
import grpc.aio
import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from numpy.typing import NDArray
from openai import OpenAI
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway.errors import Unsupported
from gateway.health.monitor import Monitor
from gateway.inference.admission import Admission
from gateway.inference.text import TextEmbedder
from gateway.model_id import ModelId
from gateway.models.catalog import Catalog
from gateway.models.names import Names
from gateway.models.readiness import ReadinessGate
from tests.conftest import MINILM, Server
from tests.support.converted_models import CLIP, NORMALIZED, Stock
from tests.support.tiny_models import HIDDEN
from tests.support.vectors import cosines, embed
from triton_models.repository.repository import Repository
from triton_models.server.triton import Triton

BASE = f"/tei/{MINILM}"
TEXTS = ["a diver", "Über 7 dogs"]
LONG = "a " * 600
ALIKE = 0.99999


@pytest.fixture
def hub_client(server: Server) -> InferenceClient:
    return InferenceClient(f"{server.url}{BASE}")


def test_feature_extraction_is_infer(hub_client: InferenceClient, client: httpx.Client) -> None:
    expected = embed(client, TEXTS)
    assert cosines(hub_client.feature_extraction(TEXTS), expected).min() >= ALIKE
    assert cosines(hub_client.feature_extraction(TEXTS[0]), expected[:1]).min() >= ALIKE
    cut = hub_client.feature_extraction(TEXTS, dimensions=32, normalize=True, truncate=True)
    assert cosines(cut, expected[:, :32]).min() >= ALIKE
    assert np.linalg.norm(cut, axis=1) == pytest.approx(1, abs=1e-5)


def test_sentence_similarity_is_the_cosine(hub_client: InferenceClient, client: httpx.Client) -> None:
    sentences = ["a swimmer", "a dog", "a diver"]
    scores = hub_client.sentence_similarity("a diver", other_sentences=sentences)
    expected = cosines(embed(client, sentences), np.repeat(embed(client, "a diver"), 3, axis=0))
    assert scores == pytest.approx(list(expected), abs=1e-5)
    at_path = client.post(
        f"{BASE}/similarity",
        json={
            "inputs": {"source_sentence": "a diver", "sentences": sentences},
            "parameters": {"truncate": True},
        },
    )
    assert at_path.json() == pytest.approx(scores, abs=1e-6)


def test_normalize_is_the_default(client: httpx.Client) -> None:
    """MiniLM ends in Normalize, which `normalize: false` does not undo."""
    path = "/tei/tiny/static/embed"
    unit, plain = (
        np.array(client.post(path, json={"inputs": TEXTS, **fields}).json())
        for fields in ({}, {"normalize": False})
    )
    assert np.allclose(plain, embed(client, TEXTS, "tiny/static"), atol=1e-6)
    assert np.linalg.norm(unit, axis=1) == pytest.approx(1, abs=1e-5)
    assert cosines(unit, plain).min() >= ALIKE
    kept = np.array(client.post(f"{BASE}/embed", json={"inputs": TEXTS, "normalize": False}).json())
    assert np.linalg.norm(kept, axis=1) == pytest.approx(1, abs=1e-5)


def test_truncation(client: httpx.Client, hub_client: InferenceClient) -> None:
    answer = client.post(f"{BASE}/embed", json={"inputs": ["a", LONG]})
    assert (answer.status_code, answer.json()["error_type"]) == (413, "Validation")
    assert answer.json()["error"].startswith("inputs.1: ")
    right = hub_client.feature_extraction(LONG, truncate=True)
    assert cosines(right, embed(client, LONG)).min() >= ALIKE
    ends = "a " * 600 + "dog"
    left = client.post(
        f"{BASE}/embed", json={"inputs": ends, "truncate": True, "truncation_direction": "Left"}
    ).json()
    # What is kept of 601 words are the last 254, between the two special tokens.
    assert cosines(np.array(left), embed(client, "a " * 253 + "dog")).min() >= ALIKE


def test_tokenize_and_decode(client: httpx.Client, minilm_path: str) -> None:
    model_id = Tokenizer.from_file(f"{minilm_path}/tokenizer.json")
    model_id.no_padding()
    expected = model_id.encode(TEXTS[1])
    tokens = client.post(f"{BASE}/tokenize", json={"inputs": TEXTS[1]}).json()[0]
    assert [token["id"] for token in tokens] == expected.ids
    assert [token["special"] for token in tokens] == [bool(mask) for mask in expected.special_tokens_mask]
    assert (tokens[0]["text"], tokens[0]["start"]) == ("[CLS]", None)
    for token in tokens[1:-1]:
        assert TEXTS[1][token["start"] : token["stop"]] == token["text"]
    bare = client.post(f"{BASE}/tokenize", json={"inputs": TEXTS, "add_special_tokens": False}).json()
    assert [token["id"] for token in bare[1]] == expected.ids[1:-1]
    ids = expected.ids
    assert client.post(f"{BASE}/decode", json={"ids": ids}).json() == [model_id.decode(ids)]
    whole = client.post(f"{BASE}/decode", json={"ids": [ids, ids], "skip_special_tokens": False}).json()
    assert whole == [model_id.decode(ids, skip_special_tokens=False)] * 2


def test_info_and_health(client: httpx.Client) -> None:
    info = client.get(f"{BASE}/info").json()
    assert (info["model_id"], info["max_input_length"], info["max_client_batch_size"]) == (MINILM, 256, 4096)
    assert (info["model_dtype"], info["auto_truncate"]) == ("float32", False)
    health = client.get(f"{BASE}/health")
    assert (health.status_code, health.content) == (200, b"")


def test_its_openai_route_has_the_model_of_the_url(server: Server, client: httpx.Client) -> None:
    with OpenAI(base_url=f"{server.url}{BASE}/v1", api_key="any") as asking:
        answer = asking.embeddings.create(model="text-embeddings-inference", input=TEXTS)
    rows = np.array([row.embedding for row in answer.data])
    assert cosines(rows, embed(client, TEXTS)).min() >= ALIKE
    assert answer.model == MINILM
    refused = client.post(f"{BASE}/v1/embeddings", json={"input": []})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "input")


def test_token_ids_are_as_their_text(client: httpx.Client) -> None:
    tokens = client.post(f"{BASE}/tokenize", json={"inputs": TEXTS}).json()
    ids = [[token["id"] for token in row] for row in tokens]
    answer = client.post(f"{BASE}/embed", json={"inputs": ids})
    assert cosines(np.array(answer.json()), embed(client, TEXTS)).min() >= ALIKE


def token_vectors(client: httpx.Client, path: str, **body: Any) -> list[NDArray[np.float32]]:  # noqa: ANN401 - of JSON
    answer = client.post(f"{path}/embed_all", json=body)
    assert answer.status_code == 200, answer.text
    return [np.array(rows, np.float32) for rows in answer.json()]


def test_embed_all_gives_every_token_its_vector(client: httpx.Client, minilm_path: str) -> None:
    model_id = SentenceTransformer(minilm_path, device="cpu")
    # More than go to Triton at a time, of many lengths, the longest as long as the model takes.
    texts = [" ".join(["a", "diver", "under", "the", "ice"] * count) for count in range(1, 20)] + ["", LONG]
    wanted = model_id.encode(texts, output_value="token_embeddings", batch_size=1)
    pooled = embed(client, texts)
    for _ in range(2):
        found = token_vectors(client, BASE, inputs=texts, truncate=True)
        for rows, expected in zip(found, wanted, strict=True):
            assert rows.shape == expected.shape
            assert cosines(rows, np.asarray(expected)).min() >= 0.9999
            np.testing.assert_allclose(rows, expected, atol=0.005)
        # Text and tokens are the same ids to Triton's cache but for a flag.
        assert cosines(embed(client, texts), pooled).min() >= ALIKE
    assert cosines(np.array([rows.mean(axis=0) for rows in found]), pooled).min() >= 0.9999


def test_embed_all_takes_what_embed_takes(client: httpx.Client) -> None:
    (whole,) = token_vectors(client, BASE, inputs=TEXTS[0])
    ids = [token["id"] for token in client.post(f"{BASE}/tokenize", json={"inputs": TEXTS[0]}).json()[0]]
    (of_ids,) = token_vectors(client, BASE, inputs=ids)
    np.testing.assert_array_equal(of_ids, whole)
    ends = "a " * 600 + "dog"
    (left,) = token_vectors(client, BASE, inputs=ends, truncate=True, truncation_direction="Left")
    (expected,) = token_vectors(client, BASE, inputs="a " * 253 + "dog")
    assert cosines(left, expected).min() >= ALIKE
    # Static: a token's vector is the same in any text. A text of no tokens has none.
    first, second, none = token_vectors(client, "/tei/tiny/static", inputs=["river paper", "paper", ""])
    np.testing.assert_array_equal(first[1:], second)
    assert none.size == 0


def test_embed_all_of_a_model_converted_before(server: Server, client: httpx.Client, stock: Stock) -> None:
    stock.put(server.repository, NORMALIZED, "tiny/before")
    body, asked = {"model_name": "tiny/before"}, {"inputs": "a"}
    assert client.post("/load_sentence_transformer_model", json=body).status_code == 200
    (path,) = (server.repository / "tiny_before").glob("*/model.json")
    recorded = path.read_text()
    for written, status in (
        ({**json.loads(recorded), "token_dimensions": None}, 424),
        (json.loads(recorded), 200),
    ):
        path.write_text(json.dumps(written))
        for route in ("/unload_model", "/load_sentence_transformer_model"):
            assert client.post(route, json=body).status_code == 200
        answer = client.post("/tei/tiny/before/embed_all", json=asked)
        assert answer.status_code == status, answer.text
        if status == 424:
            assert answer.json()["error_type"] == "Backend"
            assert "convert it again" in answer.json()["error"]
            assert client.post("/tei/tiny/before/embed", json=asked).status_code == 200
    assert client.post("/delete_model", json=body).status_code == 200


class PoolingTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers as NVIDIA's own backend, which masks the flag: one vector for each row."""

    async def ModelInfer(self, request: Any, context: object) -> Any:  # noqa: ANN401, N802, ARG002
        response = service_pb2.ModelInferResponse()
        shape = [request.inputs[0].shape[0], HIDDEN]
        response.outputs.add(name="sentence_embedding", datatype="FP32", shape=shape)
        response.raw_output_contents.append(np.ones(shape, np.float32).tobytes())
        return response


def test_a_backend_that_pools_is_never_taken_for_one_of_tokens(server: Server) -> None:
    async def run() -> None:
        pooling = grpc.aio.server()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(PoolingTriton(), pooling)
        port = pooling.add_insecure_port("127.0.0.1:0")
        await pooling.start()
        repository, model_id = Repository(server.repository), ModelId("tiny/static")
        async with Triton(server.repository, "", grpc_url=f"127.0.0.1:{port}") as triton:
            monitor = Monitor(repository, triton, compute_seconds=5)
            monitor.lost = None
            readiness = ReadinessGate(repository, triton, monitor, Names(repository))
            embedder = TextEmbedder(
                Catalog(repository),
                triton,
                readiness,
                Admission(64, 10),
                max_inputs=8,
                timeout=5,
                max_characters=99,
            )
            assert len((await embedder.embed(model_id, ["a", "river"], normalize=True)).vectors) == 2
            for texts in (["river"], ["river paper", "a"]):
                with pytest.raises(Unsupported, match="backend of this Triton"):
                    await embedder.embed_tokens(model_id, texts)
        await pooling.stop(None)

    asyncio.run(run())


REFUSED = {
    "no input": ("/embed", {"inputs": []}, 400, "Empty"),
    "no sentences": (
        "/similarity",
        {"inputs": {"source_sentence": "a", "sentences": []}},
        400,
        "Empty",
    ),
    "no texts": ("/tokenize", {"inputs": []}, 400, "Empty"),
    "no ids": ("/decode", {"ids": []}, 400, "Empty"),
    "too many": ("/embed", {"inputs": ["a"] * 5000}, 413, "Validation"),
    "too many to tokenize": ("/tokenize", {"inputs": ["a"] * 5000}, 413, "Validation"),
    "an id of no token": ("/embed", {"inputs": [101, 10**6]}, 422, "Tokenizer"),
    "an id of no token to decode": ("/decode", {"ids": [[7], [-1]]}, 422, "Tokenizer"),
    "no such prompt": ("/embed", {"inputs": "a", "prompt_name": "none"}, 422, "Tokenizer"),
    "too many dimensions": ("/embed", {"inputs": "a", "dimensions": 385}, 422, "Tokenizer"),
    "another direction": ("/embed", {"inputs": "a", "truncation_direction": "up"}, 422, "Tokenizer"),
    "no input for its tokens": ("/embed_all", {"inputs": []}, 400, "Empty"),
    "too many for their tokens": ("/embed_all", {"inputs": ["a"] * 5000}, 413, "Validation"),
    "too many tokens": ("/embed_all", {"inputs": [LONG] * 200, "truncate": True}, 413, "Validation"),
    "too long for its tokens": ("/embed_all", {"inputs": LONG}, 413, "Validation"),
    "an id of no token for its vector": ("/embed_all", {"inputs": [101, 10**6]}, 422, "Tokenizer"),
    "no such prompt for tokens": ("/embed_all", {"inputs": "a", "prompt_name": "none"}, 422, "Tokenizer"),
    "nothing": ("/embed", {}, 422, "Tokenizer"),
    "nothing at the root": ("", {}, 422, "Tokenizer"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_teis(client: httpx.Client, name: str) -> None:
    path, body, status, kind = REFUSED[name]
    answer = client.post(f"{BASE}{path}", json=body)
    assert (answer.status_code, answer.json()["error_type"]) == (status, kind), answer.text
    assert set(answer.json()) == {"error", "error_type"}


def test_the_place_of_a_wrong_id_is_told(client: httpx.Client) -> None:
    for path, body, place in (
        ("/embed", {"inputs": [7, 10**6]}, "inputs.1"),
        ("/embed", {"inputs": [[7], [7, 10**6]]}, "inputs.1.1"),
        ("/decode", {"ids": [7, -1]}, "ids.1"),
        ("/decode", {"ids": [[7], [7, -1]]}, "ids.1.1"),
    ):
        assert client.post(f"{BASE}{path}", json=body).json()["error"].startswith(f"{place}: ")


def test_a_model_that_is_not_loaded(server: Server) -> None:
    with pytest.raises(HfHubHTTPError, match="is not loaded") as refused:
        InferenceClient(f"{server.url}/tei/tiny/none").feature_extraction("a")
    assert refused.value.response.status_code == 404


def test_the_text_tower_of_clip(clip_server: Server, api: httpx.Client) -> None:
    rows = InferenceClient(f"{clip_server.url}/tei/{CLIP}").feature_extraction(TEXTS)
    expected = api.post("/infer_text", json={"model_name": CLIP, "text": TEXTS}).json()["embedding"]
    assert cosines(rows, np.array(expected)).min() >= ALIKE
    answer = api.post(f"/tei/{CLIP}/embed_all", json={"inputs": TEXTS})
    assert (answer.status_code, answer.json()["error_type"]) == (424, "Backend")
    assert "CLIP" in answer.json()["error"]
