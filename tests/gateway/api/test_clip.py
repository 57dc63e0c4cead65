"""CLIP over HTTP: both towers against open_clip itself, on the real Triton."""

import base64
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import Server
from tests.support.clip_conversion import OpenClip
from tests.support.converted_models import CLIP
from tests.support.hostile_host import HostileHost
from tests.support.pictures import PICTURES, encoded, photo
from tests.support.vectors import cosines

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

TEXTS = [
    "a diver",
    "",
    "Ein schÃ¶ner &amp; groÃŸer HUND 🐕   läuft\n\tweg",
    "&lt;b&gt;bold&lt;/b&gt; &amp;amp; so on",
    "word " * 200,
    "a <end_of_text> b",
    "東京 мир naïve I'll we've 3.14",
]


@pytest.fixture(scope="module")
def reference(model_sources: Path) -> OpenClip:
    return OpenClip(model_sources / "tiny" / "clip")


def encode(reference: OpenClip, pictures: Sequence[bytes]) -> NDArray[np.float32]:
    pixels = torch.stack([reference.transform(Image.open(io.BytesIO(data))) for data in pictures])
    with torch.inference_mode():
        return np.asarray(reference.model.encode_image(pixels))


def uri(data: bytes) -> str:
    return "data:image/whatever;base64," + base64.b64encode(data).decode()


def infer(client: httpx.Client, **fields: object) -> dict[str, NDArray[np.float32] | None]:
    answer = client.post("/infer", json={"model_name": CLIP, **fields})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return {
        name: None if body[f"{name}_embeddings"] is None else np.array(body[f"{name}_embeddings"], np.float32)
        for name in ("text", "image")
    }


def infer_image(client: httpx.Client, images: str | list[str]) -> NDArray[np.float32]:
    answer = client.post("/infer_image", json={"model_name": CLIP, "image": images})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["embedding"], np.float32)


def test_texts_are_open_clips(api: httpx.Client, reference: OpenClip) -> None:
    answer = api.post("/infer_text", json={"model_name": CLIP, "text": TEXTS})
    assert answer.status_code == 200, answer.text
    vectors = np.array(answer.json()["embedding"], np.float32)
    assert cosines(vectors, reference.texts(TEXTS)).min() >= 0.9999
    assert np.abs(vectors - reference.texts(TEXTS)).max() < 1e-3


def test_images_of_every_kind_are_open_clips(api: httpx.Client, reference: OpenClip) -> None:
    pictures = [make() for make in PICTURES.values()]
    vectors = infer_image(api, [uri(data) for data in pictures])
    assert cosines(vectors, encode(reference, pictures)).min() >= 0.9999


def test_text_and_images_at_once(api: httpx.Client, reference: OpenClip) -> None:
    picture = PICTURES["jpeg"]()
    both = infer(api, text=TEXTS[:2], image=uri(picture))
    assert both["text"] is not None
    assert both["image"] is not None
    assert cosines(both["text"], reference.texts(TEXTS[:2])).min() >= 0.9999
    assert cosines(both["image"], encode(reference, [picture])).min() >= 0.9999
    assert infer(api, text="a")["image"] is None
    assert infer(api, image=[uri(picture)])["text"] is None


def test_normalize_scales_to_unit_length(api: httpx.Client) -> None:
    plain = infer(api, text="a dog", image=uri(PICTURES["png"]()))
    scaled = infer(api, text="a dog", image=uri(PICTURES["png"]()), normalize=True)
    for name in ("text", "image"):
        raw, unit = plain[name], scaled[name]
        assert raw is not None
        assert unit is not None
        assert abs(np.linalg.norm(raw) - 1) > 0.01
        assert np.abs(raw / np.linalg.norm(raw) - unit).max() < 1e-6


def test_one_image_however_it_is_sent(api: httpx.Client, host: HostileHost, reference: OpenClip) -> None:
    data = PICTURES["png"]()
    standard, safe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    sent = [standard, safe, safe.rstrip("="), uri(data), host.url + "/png", host.url + "/twice"]
    vectors = infer_image(api, sent)
    assert cosines(vectors, np.repeat(encode(reference, [data]), len(sent), axis=0)).min() >= 0.9999
    assert np.ptp(vectors, axis=0).max() < 1e-4


def test_vectors_keep_their_order_under_load(clip_server: Server, reference: OpenClip) -> None:
    pictures = [encoded(photo(20 + seed % 50, 70 - seed % 40, seed=seed), "PNG") for seed in range(150)]
    expected = encode(reference, pictures)

    def one(start: int) -> float:
        with clip_server.client() as client:
            vectors = infer_image(client, [uri(data) for data in pictures[start : start + 30]])
        return float(cosines(vectors, expected[start : start + 30]).min())

    with ThreadPoolExecutor(5) as threads:
        assert min(threads.map(one, range(0, 150, 30))) >= 0.9999


def test_a_body_of_many_megabytes(api: httpx.Client, reference: OpenClip) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    picture = encoded(Image.fromarray(noise), "PNG")
    assert len(picture) > 1 << 19
    both = infer(api, text=["a dog", "long " * 30_000], image=[uri(picture)] * 12)
    assert both["image"] is not None
    assert both["text"] is not None
    assert cosines(both["image"], np.repeat(encode(reference, [picture]), 12, axis=0)).min() >= 0.9999
    assert cosines(both["text"], reference.texts(["a dog", "long " * 30_000])).min() >= 0.9999


def test_the_pair_is_listed_loaded_and_counted(api: httpx.Client) -> None:
    served = {"hf-hub_tiny_clip_text_encoder", "hf-hub_tiny_clip_image_encoder"}
    assert served <= set(api.get("/loaded_models").json()["models"])
    rows = {row["name"]: row for row in api.get("/repository_models").json()["models"]}
    for name in served:
        assert (rows[name]["state"], rows[name]["model_name"], rows[name]["pretrained"]) == (
            "READY",
            CLIP,
            "",
        )
    again = api.post("/load_clip_model", json={"model_name": CLIP, "pretrained": ""})
    assert again.json() == {"message": f"Model {CLIP} is already loaded."}
    infer_image(api, uri(PICTURES["png"]()))
    metrics = api.get("/metrics", headers={"Accept": "text/plain"}).text
    assert 'embedding_images_total{model="hf-hub_tiny_clip_image_encoder"}' in metrics
