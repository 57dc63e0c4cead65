"""Prompts and truncation over HTTP, compared with sentence-transformers, on the real Triton."""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from tests.conftest import MINILM, Server
from tests.gateway.api.test_infer import sentences
from tests.support import tiny_models
from tests.support.converted_models import CLIP
from tests.support.vectors import cosines

PROMPTED = "tiny/prompted"
PROMPTS = {"query": "find what is alike: ", "passage": "a text of many: ", "empty": ""}
LENGTHS = {"query_length": 12, "document_length": 90}
"""Of that model, whose other texts are cut at 64 tokens."""
TEXTS = ["", "a dog", *sentences(12, seed=5, most=12), "a very long text " * 60]

Vectors = NDArray[np.float32]


@pytest.fixture(scope="module")
def prompted(server: Server, model_sources: Path) -> Iterator[SentenceTransformer]:
    """The reference of a model that is loaded.

    It has prompts, which pooling leaves out, and a default one; and lengths of its own for both input types.
    """
    path = tiny_models.transformer_model(
        model_sources / PROMPTED,
        prompts=PROMPTS,
        default_prompt_name="query",
        include_prompt=False,
        normalize=False,
    )
    settings = path / "sentence_bert_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **LENGTHS}))
    with server.client() as client:
        answer = client.post("/load_sentence_transformer_model", json={"model_name": PROMPTED})
        assert answer.status_code == 200, answer.text
        yield SentenceTransformer(str(path), device="cpu")
        client.post("/delete_model", json={"model_name": PROMPTED})


def infer(client: httpx.Client, model: str, text: list[str], **options: Any) -> Vectors:  # noqa: ANN401
    answer = client.post("/infer", json={"model_name": model, "text": text, **options})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json()["text_embeddings"], dtype=np.float32)


def refused(client: httpx.Client, **body: Any) -> str:  # noqa: ANN401
    answer = client.post("/infer_text", json=body)
    assert answer.status_code == 422, answer.text
    detail: str = answer.json()["detail"]
    return detail


@pytest.mark.parametrize(
    ("options", "encode"),
    [
        ({}, lambda model: model.encode(TEXTS)),
        *(
            ({"prompt_name": name}, lambda model, name=name: model.encode(TEXTS, prompt_name=name))
            for name in (*PROMPTS, "document")
        ),
        ({"prompt": ""}, lambda model: model.encode(TEXTS, prompt="")),
        ({"prompt": "Über: "}, lambda model: model.encode(TEXTS, prompt="Über: ")),
        ({"prompt": "so: ", "prompt_name": "no"}, lambda model: model.encode(TEXTS, prompt="so: ")),
        ({"input_type": "query"}, lambda model: model.encode_query(TEXTS)),
        ({"input_type": "document"}, lambda model: model.encode_document(TEXTS)),
        (
            {"input_type": "query", "prompt": "so: "},
            lambda model: model.encode_query(TEXTS, prompt="so: "),
        ),
        (
            {"input_type": "document", "prompt_name": "passage"},
            lambda model: model.encode_document(TEXTS, prompt_name="passage"),
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_prompts_are_the_references(
    client: httpx.Client,
    prompted: SentenceTransformer,
    options: dict[str, str],
    encode: Callable[[SentenceTransformer], Vectors],
) -> None:
    expected = encode(prompted)
    vectors = infer(client, PROMPTED, TEXTS, **options)
    assert cosines(vectors, expected).min() >= 0.9999
    assert np.allclose(np.linalg.norm(vectors, axis=1), np.linalg.norm(expected, axis=1), rtol=0.01)


@pytest.mark.usefixtures("prompted")
def test_each_prompt_gives_other_vectors(client: httpx.Client) -> None:
    names = ("query", "passage", "empty")
    made = [infer(client, PROMPTED, ["a dog"], prompt_name=name) for name in names]
    for one, other in itertools.combinations(made, 2):
        assert cosines(one, other)[0] < 0.999


@pytest.mark.usefixtures("prompted")
def test_a_prompt_that_is_not_there_is_named_with_those_that_are(client: httpx.Client) -> None:
    detail = refused(client, model_name=PROMPTED, text="a", prompt_name="passages")
    assert detail == (
        "prompt_name: the model has no prompt 'passages'; it has document, empty, passage, query"
    )
    assert refused(client, model_name=MINILM, text="a", input_type="passage").startswith("input_type: ")
    assert refused(client, model_name=MINILM, text="a", prompt="a" * 8193).startswith("prompt: ")
    assert refused(client, model_name=MINILM, text="a", prompt=1).startswith("prompt: ")


@pytest.mark.usefixtures("prompted")
def test_each_input_type_is_cut_and_refused_at_its_own_length(client: httpx.Client) -> None:
    for options, most, kind in (
        ({}, 64, ""),
        ({"input_type": "query"}, 12, " of a query"),
        ({"input_type": "document"}, 90, " of a document"),
    ):
        asked = {"prompt": "", "truncate": False, **options}
        fits = "dog " * (most - 2)
        infer(client, PROMPTED, [fits], **asked)
        detail = refused(client, model_name=PROMPTED, text=["a", fits + "dog"], **asked)
        expected = f"text.1: {most + 1} tokens, the model takes {most}{kind}; shorten it or set truncate"
        assert detail == expected
    # Weaviate's word for it, and token ids.
    long = "dog " * 30
    answer = client.post(
        f"/weaviate/{PROMPTED}/vectors", json={"text": long, "config": {"task_type": "query"}}
    )
    expected_vector = infer(client, PROMPTED, [long], input_type="query")
    assert cosines(np.array([answer.json()["vector"]], np.float32), expected_vector)[0] > 0.9999
    answer = client.post(
        "/v1/embeddings",
        json={"model": PROMPTED, "input": [[5] * 20], "prompt": "", "input_type": "query", "truncate": False},
    )
    assert answer.status_code == 422
    assert "the model takes 12 of a query" in answer.text


def test_a_model_without_prompts_takes_one(client: httpx.Client, minilm_path: str) -> None:
    reference = SentenceTransformer(minilm_path, device="cpu")
    texts = TEXTS[:6]
    assert cosines(
        infer(client, MINILM, texts, prompt="query: "), reference.encode(texts, prompt="query: ")
    ).min() >= (0.9999)
    for input_type in ("query", "document"):
        assert np.array_equal(
            infer(client, MINILM, texts, input_type=input_type), infer(client, MINILM, texts)
        )


def test_static_embeddings_take_a_prompt_and_any_length(client: httpx.Client, model_sources: Path) -> None:
    reference = SentenceTransformer(str(model_sources / "tiny" / "static"), device="cpu")
    expected = reference.encode(TEXTS[1:], prompt="a: ")
    assert (
        cosines(infer(client, "tiny/static", TEXTS[1:], prompt="a: ", truncate=False), expected).min()
        >= 0.9999
    )


def test_a_text_that_is_too_long_is_cut_at_either_end(client: httpx.Client, model_sources: Path) -> None:
    reference = SentenceTransformer(str(model_sources / "tiny" / "bert"), device="cpu")
    texts = [*sentences(6, seed=6), " ".join(sentences(20, seed=7))]
    right, left = (infer(client, "tiny/bert", texts, truncation_direction=end) for end in ("right", "left"))
    assert cosines(right, reference.encode(texts)).min() >= 0.9999
    assert np.array_equal(right, infer(client, "tiny/bert", texts))
    reference.tokenizer.truncation_side = "left"
    assert cosines(left, reference.encode(texts)).min() >= 0.9999
    assert cosines(left[-1], right[-1])[0] < 0.999


def test_a_text_that_is_too_long_is_refused_where_it_is_not_to_be_cut(client: httpx.Client) -> None:
    fits = "dog " * 62
    vectors = infer(client, "tiny/bert", [fits, "a"], truncate=False)
    assert np.array_equal(vectors, infer(client, "tiny/bert", [fits, "a"]))
    detail = refused(client, model_name="tiny/bert", text=["a", fits, fits + "dog"], truncate=False)
    assert detail == "text.2: 65 tokens, the model takes 64; shorten it or set truncate"
    # The prompt counts.
    detail = refused(client, model_name="tiny/bert", text=fits, prompt="dog dog ", truncate=False)
    assert detail.startswith("text: 66 tokens, ")
    # A text of megabytes is tokenised off the event loop.
    detail = refused(client, model_name="tiny/bert", text="dog " * 240_000, truncate=False)
    assert detail.startswith("text: 240002 tokens, ")


def test_a_clip_models_text_takes_the_same_options(api: httpx.Client) -> None:
    plain = infer(api, CLIP, ["a photo of a dog"])
    assert np.array_equal(infer(api, CLIP, ["a dog"], prompt="a photo of ", truncate=False), plain)
    detail = refused(api, model_name=CLIP, text="a", prompt_name="query")
    assert detail == "prompt_name: the model has no prompt 'query' and no other; send it as prompt"
    assert re.match(r"text: \d+ tokens, ", refused(api, model_name=CLIP, text="a " * 99, truncate=False))
