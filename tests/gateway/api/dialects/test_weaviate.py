"""Weaviate's inference containers, asked as the modules of its server ask them: no content type, no key."""

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import MINILM
from tests.support.converted_models import CLIP
from tests.support.pictures import encoded, photo
from tests.support.vectors import cosines, embed

TEXT = f"/weaviate/{MINILM}"
MULTI = f"/weaviate/{CLIP}"
ALIKE = 0.99999


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    return client.post(path, content=json.dumps(body))


def test_vectors_of_text2vec_transformers(client: httpx.Client) -> None:
    body = {
        "text": "a diver",
        "dims": 0,
        "vector": None,
        "error": "",
        "config": {"pooling_strategy": "masked_mean", "task_type": ""},
    }
    for path in ("vectors", "vectors/"):
        answer = post(client, f"{TEXT}/{path}", body)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["text"], answer.json()["dim"]) == ("a diver", 384)
        assert cosines(np.array(answer.json()["vector"]), embed(client, "a diver")).min() >= ALIKE
    plain = post(client, "/weaviate/tiny/static/vectors", {"text": "a diver"}).json()["vector"]
    assert np.allclose(plain, embed(client, "a diver", "tiny/static"), atol=1e-6)


def test_vectors_of_multi2vec_clip(api: httpx.Client) -> None:
    images = [base64.b64encode(encoded(photo(40, 30, seed=seed), "PNG")).decode() for seed in (1, 2)]
    infer = api.post("/infer", json={"model_name": CLIP, "text": ["a diver"], "image": images}).json()
    both = post(api, f"{MULTI}/vectorize", {"texts": ["a diver"], "images": images}).json()
    for ours, field in (("text_embeddings", "textVectors"), ("image_embeddings", "imageVectors")):
        assert cosines(np.array(both[field]), np.array(infer[ours])).min() >= ALIKE
        assert np.linalg.norm(both[field], axis=1) == pytest.approx(1, abs=1e-5)
    texts = post(api, f"{MULTI}/vectorize", {"texts": ["a diver"], "images": None})
    assert texts.json() == {"textVectors": both["textVectors"], "imageVectors": []}


def test_meta_and_probes(client: httpx.Client) -> None:
    meta = client.get(f"{TEXT}/meta").json()
    assert meta == {"model_name": MINILM, "dimensions": 384, "max_input_length": 256}
    for probe in ("ready", "live"):
        assert client.get(f"{TEXT}/.well-known/{probe}").status_code == 204
    assert client.get("/weaviate/tiny/none/.well-known/ready").status_code == 404


def test_errors_are_the_containers(api: httpx.Client, client: httpx.Client) -> None:
    for answer, status, place in (
        (post(client, "/weaviate/tiny/none/vectors", {"text": "a"}), 404, ""),
        (post(client, f"{TEXT}/vectors", {"text": 7}), 422, "text: "),
        (post(client, f"{TEXT}/vectorize", {"images": ["aGk="]}), 422, "images: "),
        (post(api, f"{MULTI}/vectorize", {"images": ["%"]}), 422, "images.0: "),
    ):
        assert (answer.status_code, set(answer.json())) == (status, {"error"}), answer.text
        assert answer.json()["error"].startswith(place)
