"""ingrain's routes; tests/test_clients.py asks them with its own client."""

import base64

import httpx
import numpy as np
import pytest

from tests.conftest import MINILM
from tests.support.converted_models import CLIP
from tests.support.pictures import encoded, photo
from tests.support.vectors import cosines, embed

INGRAIN = {"User-Agent": "ingrain-client/1.0.0"}
ALIKE = 0.99999


def image(seed: int) -> str:
    return base64.b64encode(encoded(photo(40, 30, seed=seed), "PNG")).decode()


def test_embed_text_is_infer(client: httpx.Client) -> None:
    answer = client.post("/embed_text", json={"name": MINILM, "text": ["a diver", "a dog"]}).json()
    assert cosines(np.array(answer["embeddings"]), embed(client, ["a diver", "a dog"])).min() >= ALIKE
    assert answer["processingTimeMs"] > 0


@pytest.mark.parametrize("key", ["nDims", "n_dims"])
def test_both_cases_of_keys(client: httpx.Client, key: str) -> None:
    body = {"name": "tiny/static", "text": "a diver", "normalize": False, key: 8}
    cut = np.array(client.post("/embed_text", json=body).json()["embeddings"])
    assert cut.shape == (1, 8)
    assert cosines(cut, embed(client, "a diver", "tiny/static")[:, :8]).min() >= ALIKE


def test_texts_and_images(api: httpx.Client) -> None:
    given = {"text": "a diver", "image": [image(1), image(2)]}
    infer = api.post("/infer", json={"model_name": CLIP, **given}).json()
    answer = api.post("/embed", json={"name": CLIP, "image_download_headers": None, **given}).json()
    for field, ours in (("textEmbeddings", "text_embeddings"), ("imageEmbeddings", "image_embeddings")):
        assert cosines(np.array(answer[field]), np.array(infer[ours])).min() >= ALIKE
        assert np.linalg.norm(answer[field], axis=1) == pytest.approx(1, abs=1e-5)
    images = api.post("/embed_image", json={"name": CLIP, "image": given["image"]}).json()
    assert images["embeddings"] == answer["imageEmbeddings"]
    text = api.post("/embed", json={"name": CLIP, "text": "a diver"}).json()
    assert (len(text["textEmbeddings"]), text["imageEmbeddings"]) == (1, None)
    assert api.get("/model_embedding_size", params={"name": CLIP}).json() == {
        "embeddingSize": len(answer["textEmbeddings"][0])
    }


def test_a_model_is_loaded_unloaded_and_deleted_by_name(api: httpx.Client) -> None:
    fields = {"name": CLIP, "library": "open_clip"}
    assert "loaded" in api.post("/load_model", json=fields).json()["message"]
    listed = api.get("/loaded_models", headers=INGRAIN).json()["models"]
    assert fields in listed
    static = {"name": "tiny/static"}
    try:
        assert set(api.post("/unload_model", json=static).json()) == {"message"}
        assert static["name"] not in str(api.get("/loaded_models", headers=INGRAIN).json())
        assert set(api.request("DELETE", "/delete_model", json=static).json()) == {"message"}
        assert "tiny_static" not in api.get("/repository_models").text
    finally:
        loaded = api.post("/load_model", json={**static, "library": "sentence_transformers"})
    assert loaded.status_code == 200, loaded.text


def test_what_cannot_be(client: httpx.Client) -> None:
    text, picture = {"name": MINILM, "text": "a"}, {"name": MINILM, "image": image(1)}
    for path, body, status, place in (
        ("/embed", {"name": MINILM}, 422, "give text, image or both"),
        ("/embed_text", {**text, "text": []}, 422, "text: "),
        ("/embed_text", {**text, "name": "tiny/none"}, 404, "model tiny/none is not loaded"),
        ("/embed_text", {**text, "nDims": 385}, 422, "dimensions: 385"),
        ("/embed_image", picture, 422, "image: "),
        ("/embed_image", {**picture, "imageDownloadHeaders": {"Cookie": "a"}}, 422, "imageDownloadHeaders: "),
        ("/load_model", {"name": "a", "library": "timm"}, 422, "library: "),
        ("/load_model", {"name": "ViT-B-32", "library": "open_clip"}, 422, "name: "),
        ("/unload_model", {}, 422, "model_name: "),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == status, answer.text
        assert answer.json()["detail"].startswith(place), answer.text
    assert client.get("/model_embedding_size", params={"name": "tiny/none"}).status_code == 404
    assert client.get("/model_embedding_size").status_code == 422
