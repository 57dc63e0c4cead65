"""OpenAI's API, asked by OpenAI's own client."""

import asyncio
import base64
import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from numpy.typing import NDArray
from openai import AsyncOpenAI, OpenAI
from PIL import Image

from gateway.api.request_body import SMALL
from tests.conftest import MINILM, Server
from tests.support.converted_models import CLIP
from tests.support.pictures import encoded, photo
from tests.support.vectors import cosines, embed

TEXTS = ["a diver", "a dog", ""]
ALIKE = 0.99999


@pytest.fixture
def openai_client(server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture
def clip_client(clip_server: Server) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{clip_server.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def data_uri(seed: int) -> str:
    content = encoded(photo(40, 30, seed=seed), "PNG")
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def vectors(answer: openai.types.CreateEmbeddingResponse) -> NDArray[np.float32]:
    assert [row.index for row in answer.data] == list(range(len(answer.data)))
    return np.array([row.embedding for row in answer.data], dtype=np.float32)


@pytest.mark.parametrize("model", [MINILM, "tiny/bert", "tiny/static"])
def test_vectors_are_those_of_infer(openai_client: OpenAI, client: httpx.Client, model: str) -> None:
    answer = openai_client.embeddings.create(model=model, input=TEXTS[:2])
    assert answer.model == model
    assert cosines(vectors(answer), embed(client, TEXTS[:2], model)).min() >= ALIKE
    assert np.linalg.norm(vectors(answer), axis=1) == pytest.approx(1, abs=1e-5)
    one = openai_client.embeddings.create(model=model, input=TEXTS[1])
    assert cosines(vectors(one), vectors(answer)[1:]).min() >= ALIKE


def test_both_encodings_are_the_same_floats(client: httpx.Client) -> None:
    body = {"model": MINILM, "input": TEXTS, "user": "somebody"}
    floats, texts = (
        client.post("/v1/embeddings", json={**body, "encoding_format": form}) for form in ("float", "base64")
    )
    for given, coded in zip(floats.json()["data"], texts.json()["data"], strict=True):
        decoded = np.frombuffer(base64.b64decode(coded["embedding"]), dtype="<f4")
        assert np.array_equal(decoded, np.array(given["embedding"], dtype=np.float32))
    assert len(texts.content) < len(floats.content) / 2


def test_without_normalize_as_the_model_gives_them(openai_client: OpenAI, client: httpx.Client) -> None:
    answer = openai_client.embeddings.create(
        model="tiny/static", input=TEXTS[:2], extra_body={"normalize": False}
    )
    assert np.allclose(vectors(answer), embed(client, TEXTS[:2], "tiny/static"), atol=1e-6)


def test_the_async_client(server: Server, client: httpx.Client) -> None:
    async def ask() -> openai.types.CreateEmbeddingResponse:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any") as asking:
            return await asking.embeddings.create(model=MINILM, input=TEXTS)

    assert cosines(vectors(asyncio.run(ask())), embed(client, TEXTS)).min() >= ALIKE


def test_dimensions_are_cut_and_scaled_again(openai_client: OpenAI, client: httpx.Client) -> None:
    cut = vectors(openai_client.embeddings.create(model=MINILM, input=TEXTS, dimensions=64))
    assert cut.shape == (3, 64)
    assert cosines(cut, embed(client, TEXTS)[:, :64]).min() >= ALIKE
    assert np.linalg.norm(cut, axis=1) == pytest.approx(1, abs=1e-5)


def test_token_ids_are_as_their_text(openai_client: OpenAI, client: httpx.Client) -> None:
    path = f"/tei/{MINILM}/tokenize"
    ids = [[token["id"] for token in row] for row in client.post(path, json={"inputs": TEXTS}).json()]
    of_ids = openai_client.embeddings.create(model=MINILM, input=ids)
    of_texts = openai_client.embeddings.create(model=MINILM, input=TEXTS)
    assert cosines(vectors(of_ids), vectors(of_texts)).min() >= ALIKE
    assert of_ids.usage == of_texts.usage
    assert of_texts.usage.prompt_tokens == of_texts.usage.total_tokens == sum(map(len, ids))
    one = openai_client.embeddings.create(model=MINILM, input=ids[0])
    assert cosines(vectors(one), vectors(of_texts)[:1]).min() >= ALIKE


def test_models(openai_client: OpenAI, clip_client: OpenAI) -> None:
    listed = {model.id: model for model in openai_client.models.list()}
    assert {MINILM, "tiny/bert", "tiny/static"} <= set(listed)
    assert openai_client.models.retrieve(MINILM) == listed[MINILM]
    assert [model.id for model in clip_client.models.list()] == [CLIP, "tiny/static"]
    with pytest.raises(openai.NotFoundError, match="tiny/none is not loaded"):
        openai_client.models.retrieve("tiny/none")


REFUSED: dict[str, tuple[dict[str, Any], int, str | None, str]] = {
    "no such model": ({"model": "tiny/none"}, 404, None, "model_not_found"),
    "no name at all": ({"model": "../etc"}, 404, None, "model_not_found"),
    "no input": ({"input": []}, 422, "input", "empty_input"),
    "mixed input": ({"input": ["a", 1]}, 422, "input", "invalid_input"),
    "an id of no token": ({"input": [[101, 10**6]]}, 422, "input", "invalid_input"),
    "too many": ({"input": ["a"] * 5000}, 413, None, "too_large"),
    "too many dimensions": ({"dimensions": 385}, 422, "dimensions", "invalid_input"),
    "no dimensions": ({"dimensions": 0}, 422, "dimensions", "invalid_input"),
    "another encoding": ({"encoding_format": "hex"}, 422, "encoding_format", "invalid_input"),
    "no such prompt": ({"prompt_name": "none"}, 422, "prompt_name", "invalid_input"),
    "too long": ({"input": ["a", "a " * 600], "truncate": False}, 422, "input", "text_too_long"),
    "an image of a text model": ({"modality": "image"}, 422, "input", "invalid_input"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_errors_are_openais(client: httpx.Client, name: str) -> None:
    fields, status, param, code = REFUSED[name]
    answer = client.post("/v1/embeddings", json={"model": MINILM, "input": "a", **fields})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert error["message"]


def test_the_place_of_a_wrong_id_is_told(client: httpx.Client) -> None:
    for given, place in (([[7], [7, 10**6]], "input.1.1"), ([7, 7, -1], "input.2")):
        answer = client.post("/v1/embeddings", json={"model": MINILM, "input": given})
        assert answer.json()["error"]["message"].startswith(f"{place}: ")


def test_errors_of_the_server_itself_are_openais(client: httpx.Client) -> None:
    for method, path, status in (("GET", "/v1/none", 404), ("DELETE", "/v1/models", 405)):
        answer = client.request(method, path)
        assert (answer.status_code, set(answer.json())) == (status, {"error"})
    answer = client.post("/v1/embeddings", content=b"{")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_input")
    connection = HTTPConnection(client.base_url.host, client.base_url.port or 80)
    with closing(connection):
        connection.putrequest("POST", "/v1/embeddings")
        connection.putheader("Content-Length", str(1 << 40))
        connection.endheaders()
        with connection.getresponse() as refused:
            assert (refused.status, json.load(refused)["error"]["code"]) == (413, "too_large")


def test_clip_texts_and_images(clip_client: OpenAI, api: httpx.Client) -> None:
    images = [data_uri(1), data_uri(2)]
    infer = api.post("/infer", json={"model_name": CLIP, "text": ["a diver"], "image": images}).json()
    text = clip_client.embeddings.create(model=CLIP, input=["a diver"])
    assert cosines(vectors(text), np.array(infer["text_embeddings"])).min() >= ALIKE
    for name in (CLIP, "hf-hub_tiny_clip", "hf-hub_tiny_clip_image_encoder"):
        image = clip_client.embeddings.create(model=name, input=images, extra_body={"modality": "image"})
        assert cosines(vectors(image), np.array(infer["image_embeddings"])).min() >= ALIKE
        assert image.usage.total_tokens == 0
    with pytest.raises(openai.UnprocessableEntityError, match=r"input\.1: "):
        clip_client.embeddings.create(model=CLIP, input=[images[0], "%"], extra_body={"modality": "image"})
    with pytest.raises(openai.UnprocessableEntityError, match="token ids are no images"):
        clip_client.embeddings.create(model=CLIP, input=[1, 2], extra_body={"modality": "image"})


def test_a_large_image_is_read_in_pieces(clip_client: OpenAI, api: httpx.Client) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (520, 540, 3), dtype=np.uint8)
    large = base64.b64encode(encoded(Image.fromarray(noise), "PNG")).decode()
    assert len(large) > SMALL
    infer = api.post("/infer_image", json={"model_name": CLIP, "image": large}).json()
    expected = np.array(infer["embedding"])
    for given in (large, [data_uri(1), large]):
        answer = clip_client.embeddings.create(model=CLIP, input=given, extra_body={"modality": "image"})
        assert cosines(vectors(answer)[-1:], expected).min() >= ALIKE
