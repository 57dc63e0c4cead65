"""Texts and images without a finite vector among other callers' ones, on the real Triton with its cache."""

import asyncio
import base64
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

from tests.conftest import Server
from tests.support import tiny_models
from tests.support.converted_models import CLIP, Stock
from tests.support.vectors import cosines

NAME = "flawed/bert"
WORD = "fox"
"""Whose vector is NaN; no check text has it."""
CALLERS = 24
ROUNDS = 25
ROUTES: dict[str, tuple[str, dict[str, Any], str]] = {
    "infer": ("/infer", {"model_name": NAME, "text": ["a", WORD]}, "text.1"),
    "one text": ("/infer", {"model_name": NAME, "text": WORD}, "text:"),
    "base64": ("/infer", {"model_name": NAME, "text": ["a", WORD], "encoding_format": "base64"}, "text.1"),
    "int8": ("/infer", {"model_name": NAME, "text": ["a", WORD], "embedding_dtype": "int8"}, "text.1"),
    "cut": ("/infer", {"model_name": NAME, "text": ["a", WORD], "dimensions": 3}, "text.1"),
    "unit length": ("/infer", {"model_name": NAME, "text": ["a", WORD], "normalize": True}, "text.1"),
    "in bulk": ("/infer", {"model_name": NAME, "text": [*map(str, range(40)), WORD, "7"]}, "text.40"),
    "infer_text": ("/infer_text", {"model_name": NAME, "text": ["a", "b", WORD]}, "text.2"),
    "openai": ("/v1/embeddings", {"model": NAME, "input": ["a", WORD]}, "input.1"),
    "openai, base64": (
        "/v1/embeddings",
        {"model": NAME, "input": ["a", WORD], "encoding_format": "base64"},
        "input.1",
    ),
    "tei": (f"/tei/{NAME}/embed", {"inputs": ["a", WORD]}, "inputs.1"),
    "tei, tokens": (f"/tei/{NAME}/embed_all", {"inputs": ["a", WORD]}, "inputs.1"),
    "tei, similarity": (
        f"/tei/{NAME}/similarity",
        {"inputs": {"source_sentence": "a", "sentences": [WORD]}},
        "inputs",
    ),
    "weaviate": (f"/weaviate/{NAME}/vectors", {"text": WORD}, "text:"),
    "ingrain": ("/embed_text", {"name": NAME, "text": WORD}, "text:"),
}
MEDIA = ("application/json", "application/octet-stream", "application/x-npy")


def write_flawed(path: Path) -> None:
    tiny_models.transformer_model(path, normalize=False)
    spoil(path, float("nan"))


def spoil(path: Path, value: float) -> None:
    """Give a word's vector this value throughout."""
    (weights,) = path.glob("**/model.safetensors")
    word = SentenceTransformer(str(path), device="cpu").tokenizer.convert_tokens_to_ids(WORD)
    tensors = load_file(weights)
    (table,) = (name for name in tensors if name.endswith("word_embeddings.weight"))
    tensors[table][word] = value
    save_file(tensors, weights, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def flawed(server: Server, model_sources: Path) -> Iterator[httpx.Client]:
    write_flawed(model_sources / NAME)
    with server.client() as client:
        load(client)
        yield client


def load(client: httpx.Client) -> None:
    answer = client.post("/load_sentence_transformer_model", json={"model_name": NAME})
    assert answer.status_code == 200, answer.text


def ask(client: httpx.Client, text: str) -> httpx.Response:
    return client.post("/infer_text", json={"model_name": NAME, "text": text})


def test_nobody_elses_vector_changes_and_none_of_it_is_cached(
    flawed: httpx.Client, server: Server, model_sources: Path
) -> None:
    """24 callers of single texts, 4 with the word; then every good text once more, alone."""
    reference = SentenceTransformer(str(model_sources / NAME), device="cpu")
    good = [
        [
            f"the dog {caller} runs " + "away from the river " * (caller % 5) + str(number)
            for number in range(ROUNDS)
        ]
        for caller in range(CALLERS)
    ]

    async def call(client: httpx.AsyncClient, caller: int) -> None:
        for number in range(ROUNDS):
            text = f"the {WORD} {caller} {number}" if caller % 6 == 5 else good[caller][number]
            answer = await client.post("/infer_text", json={"model_name": NAME, "text": text})
            if caller % 6 == 5:
                assert answer.status_code == 422, answer.text
                assert answer.json()["detail"].startswith("text: the model's vector of it is not finite")
            else:
                assert answer.status_code == 200, answer.text
                found[text] = answer.json()["embedding"][0]

    async def everybody() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=60, trust_env=False) as client:
            await asyncio.gather(*(call(client, caller) for caller in range(CALLERS)))

    found: dict[str, list[float]] = {}
    asyncio.run(everybody())
    assert len(found) == 20 * ROUNDS
    together = np.array(list(found.values()), np.float32)
    assert np.isfinite(together).all()
    assert cosines(together, np.asarray(reference.encode(list(found)))).min() >= 0.9999
    for text, vector in found.items():
        # From the cache.
        assert ask(flawed, text).json()["embedding"][0] == vector


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("media", MEDIA)
def test_every_route_answers_its_error_each_time(flawed: httpx.Client, route: str, media: str) -> None:
    path, body, place = ROUTES[route]
    if media != MEDIA[0] and (not path.startswith("/infer") or route == "base64"):
        pytest.skip("the route answers JSON alone")
    for _ in range(4):
        # From the second time on the cache has the failure, from the third the one past the cache too.
        answer = flawed.post(path, json=body, headers={"accept": media})
        assert answer.status_code == 422, answer.text
        assert f"{place}" in answer.text
        assert "not finite" in answer.text
        assert "null" not in answer.text.replace('"param":null', "")
        if path.startswith("/tei/"):
            # TEI's clients read it; it tells them that the input itself was understood.
            assert answer.json()["error_type"] == "Backend"


def test_the_server_stays_healthy(flawed: httpx.Client) -> None:
    for number in range(20):
        assert ask(flawed, f"{WORD} {number}").status_code == 422
        assert flawed.get("/health").status_code == 200
    models = flawed.get("/repository_models").json()
    assert "FAILED" not in str([model for model in models if NAME in str(model)])


FLAWED_CLIP = "hf-hub:flawed/clip"
STRIPES = "zebra"
DARK = 7
"""The brightest number of the image that has no finite vector."""


def picture(brightest: int) -> str:
    file = io.BytesIO()
    pixels = np.random.default_rng(brightest).integers(0, brightest, (32, 32, 3), dtype=np.uint8)
    pixels[0, 0] = brightest
    Image.fromarray(pixels).save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def spoil_word(directory: Path) -> None:
    """Make the vector of STRIPES NaN in a converted text tower."""
    word = Tokenizer.from_file(str(directory / "tokenizer.json")).encode(STRIPES).ids[1]
    model = onnx.load(directory / "model.onnx")
    (table,) = (weight for weight in model.graph.initializer if weight.dims[0:1] == [49409])
    rows = numpy_helper.to_array(table).copy()
    rows[word] = np.nan
    table.CopyFrom(numpy_helper.from_array(rows, table.name))
    onnx.save(model, directory / "model.onnx")


def spoil_picture(path: Path) -> None:
    """Add inf to the vectors of images whose brightest number is DARK."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = ["whole" if name == "image_embedding" else name for name in node.output]
    constants: dict[str, NDArray[Any]] = {
        "all_axes": np.array([1, 2, 3], np.int64),
        "dark": np.array(DARK, np.float32),
        "spoils": np.array(np.inf, np.float32),
        "nothing": np.array(0, np.float32),
        "last_axis": np.array([1], np.int64),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["image"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMax", ["numbers", "all_axes"], ["brightest"], keepdims=0),
            helper.make_node("Equal", ["brightest", "dark"], ["is_dark"]),
            helper.make_node("Where", ["is_dark", "spoils", "nothing"], ["more"]),
            helper.make_node("Unsqueeze", ["more", "last_axis"], ["more_column"]),
            helper.make_node("Add", ["whole", "more_column"], ["image_embedding"]),
        ]
    )
    onnx.save(model, path)


@pytest.fixture(scope="module")
def flawed_clip(server: Server, stock: Stock) -> Iterator[httpx.Client]:
    text, image = (
        next(directory.glob("*/model.onnx")).parent
        for directory in stock.put(server.repository, CLIP, FLAWED_CLIP)
    )
    spoil_word(text)
    spoil_picture(image / "model.onnx")
    with server.client() as client:
        answer = client.post("/load_clip_model", json={"model_name": FLAWED_CLIP})
        assert answer.status_code == 200, answer.text
        yield client


@pytest.mark.parametrize("kind", ["text", "image"])
def test_both_towers_keep_callers_apart(flawed_clip: httpx.Client, kind: str) -> None:
    """Alone, then with 4 of 24 spoilt, then from the cache: the same vectors to the last bit."""
    if kind == "text":
        good = [f"a photo of {number} " + "dogs " * (number % 5) for number in range(20)]
        bad = [f"a {STRIPES} in picture {number}" for number in range(4)]
    else:
        good = [picture(100 + number) for number in range(20)]
        bad = [picture(DARK)] * 4

    def embed(inputs: str) -> Any:  # noqa: ANN401 - an answer, or its error
        answer = flawed_clip.post(f"/infer_{kind}", json={"model_name": FLAWED_CLIP, kind: inputs})
        if inputs in bad:
            assert answer.status_code == 422, answer.text
            assert answer.json()["detail"].startswith(f"{kind}: the model's vector of it is not finite")
            return None
        assert answer.status_code == 200, answer.text
        return answer.json()["embedding"][0]

    with ThreadPoolExecutor(24) as callers:
        together = list(callers.map(embed, good[:10] + bad + good[10:]))
        assert together[10:14] == [None] * 4
        assert np.isfinite(np.array(together[:10] + together[14:], np.float32)).all()
        assert list(callers.map(embed, good[:10] + bad + good[10:])) == together
    several = flawed_clip.post(
        f"/infer_{kind}", json={"model_name": FLAWED_CLIP, kind: [*good[:2], bad[0], good[2]]}
    )
    assert several.status_code == 422
    assert several.json()["detail"].startswith(f"{kind}.2: ")
