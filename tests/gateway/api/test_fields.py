"""Fields of other APIs: understood, needless, harmless, or refused by name; never ignored in silence."""

import base64
import json
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import BaseModel

from gateway.api import fields
from gateway.api.base_schemas import RequestBody
from gateway.api.dialects import ingrain_schemas, openai, tei_schemas, weaviate
from gateway.api.embedding_schemas import InferImageRequest, InferRequest, InferTextRequest
from gateway.api.request_body import parse
from gateway.api.schemas import LoadClip, LoadSentenceTransformer, ModelReference
from gateway.errors import InvalidInput
from gateway.text.prompts import DEFAULT, TextOptions
from tests.conftest import MINILM
from tests.fuzz.test_bodies import BODIES
from tests.support.vectors import cosines, embed

V1 = {"model": "m", "input": "a"}
NATIVE: tuple[tuple[type[BaseModel], dict[str, Any]], ...] = (
    (InferRequest, {"model_name": "m", "text": "a"}),
    (InferTextRequest, {"model_name": "m", "text": "a"}),
    (InferImageRequest, {"model_name": "m", "image": "a"}),
    (LoadSentenceTransformer, {"model_name": "m"}),
    (LoadClip, {"model_name": "m", "pretrained": "p"}),
    (ModelReference, {"model_name": "m"}),
)
DIALECTS: tuple[tuple[type[BaseModel], dict[str, Any]], ...] = (
    (openai.EmbeddingsRequest, V1),
    (tei_schemas.OpenAIRequest, {"input": "a"}),
    (tei_schemas.EmbedRequest, {"inputs": "a"}),
    (tei_schemas.EmbedAllRequest, {"inputs": "a"}),
    (tei_schemas.RootRequest, {"inputs": "a"}),
    (tei_schemas.SimilarityRequest, {"inputs": {"source_sentence": "a", "sentences": ["a"]}}),
    (tei_schemas.TokenizeRequest, {"inputs": "a"}),
    (tei_schemas.DecodeRequest, {"ids": [1]}),
    (weaviate.VectorsRequest, {"text": "a"}),
    (weaviate.VectorizeRequest, {"texts": ["a"]}),
    (ingrain_schemas.EmbedText, {"name": "m", "text": "a"}),
    (ingrain_schemas.EmbedImage, {"name": "m", "image": "a"}),
    (ingrain_schemas.Embed, {"name": "m", "text": "a"}),
    (ingrain_schemas.LoadModel, {"name": "m", "library": "sentence_transformers"}),
    (ingrain_schemas.Named, {"name": "m"}),
)


def read(schema: type[BaseModel], body: dict[str, Any]) -> Any:  # noqa: ANN401 - the body
    return parse(schema, json.dumps(body).encode())


def refusal(schema: type[BaseModel], body: dict[str, Any]) -> str:
    with pytest.raises(InvalidInput) as refused:
        read(schema, body)
    return str(refused.value)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"output_dimension": 5}, {"dimensions": 5}),
        ({"output_dtype": "ubinary"}, {"embedding_dtype": "ubinary"}),
        ({"output_dtype": "float"}, {"embedding_dtype": "float32"}),
        ({"embed_dtype": "float16"}, {"embedding_dtype": "float16"}),
        ({"embedding_type": "binary"}, {"embedding_dtype": "binary"}),
        ({"embedding_type": "base64"}, {"encoding_format": "base64", "embedding_dtype": "float32"}),
        ({"embedding_types": ["int8"]}, {"embedding_dtype": "int8"}),
        ({"normalized": False}, {"normalize": False}),
        ({"use_activation": False}, {"normalize": False}),
        ({"truncation": False}, {"truncate": False}),
        ({"truncation_side": "left"}, {"truncation_direction": "left"}),
        ({"task": "retrieval.query"}, {"input_type": "retrieval.query"}),
        ({"output_dimension": None, "task": None}, {"dimensions": None, "input_type": None}),
        ({"output_dimension": 5, "dimensions": 5}, {"dimensions": 5}),
        ({"output_dimension": 5, "dimensions": None}, {"dimensions": 5}),
    ],
)
def test_a_field_of_another_api_means_ours(given: dict[str, Any], meant: dict[str, Any]) -> None:
    found = read(openai.EmbeddingsRequest, {**V1, **given})
    assert {name: getattr(found, name) for name in meant} == meant


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output_dtype": "bfloat16"}, "output_dtype: Input should be "),
        ({"embed_dtype": "fp8_e4m3"}, "embed_dtype: Input should be "),
        ({"embedding_types": ["float", "int8"]}, "embedding_types: Input should be "),
        ({"output_dimension": 0}, "output_dimension: Input should be greater"),
        (
            {"output_dimension": 5, "dimensions": 6},
            "output_dimension: means dimensions, which the request has",
        ),
        ({"task": "poetry"}, "task: Input should be "),
        ({"late_chunking": True}, "late_chunking: only false can be done here"),
        ({"return_multivector": True}, "return_multivector: only false can be done here"),
        ({"add_special_tokens": False}, "add_special_tokens: only true can be done here"),
        ({"truncate_prompt_tokens": 8}, "truncate_prompt_tokens: only -1 can be done here"),
        ({"endianness": "big"}, "endianness: only native or little can be done here"),
        ({"mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs: only {} can be done here"),
        ({"normalise": False}, "normalise: no field of this route; did you mean normalize?"),
        ({"instruction": "a"}, "instruction: no field of this route; leave it out"),
        ({"a\nb": 1}, "'a\\nb': no field of this route"),
    ],
)
def test_what_cannot_be_done_is_refused_by_the_name_that_was_sent(
    given: dict[str, Any], message: str
) -> None:
    assert refusal(openai.EmbeddingsRequest, {**V1, **given}).startswith(message)


@pytest.mark.parametrize(("schema", "body"), DIALECTS)
def test_dialects_take_what_changes_no_vector_and_nothing_else(
    schema: type[BaseModel], body: dict[str, Any]
) -> None:
    read(schema, {**body, **dict.fromkeys(fields.HARMLESS, "b")})
    needless = {
        name: values[0] for name, values in fields.NEEDLESS.items() if name not in schema.model_fields
    }
    read(schema, {**body, **needless})
    read(schema, {**body, **dict.fromkeys(needless)})
    assert "normalizzze: no field of this route" in refusal(schema, {**body, "normalizzze": True})
    if "input_type" not in schema.model_fields:
        assert refusal(schema, {**body, "task": "retrieval.query"}).startswith("task: no field")


@pytest.mark.parametrize(("schema", "body"), NATIVE)
def test_our_own_routes_take_their_own_fields_only(schema: type[BaseModel], body: dict[str, Any]) -> None:
    for name in ("user", "metadata", "late_chunking", "model", "Model_name"):
        assert refusal(schema, {**body, name: None}).startswith(f"{name}: no field of this route")
    if "embedding_dtype" in schema.model_fields:
        assert refusal(schema, {**body, "output_dtype": "int8"}) == (
            "output_dtype: no field of this route; did you mean embedding_dtype?"
        )


def test_nested_fields_too() -> None:
    sentences = {"source_sentence": "a", "sentences": ["b"]}
    for schema, body in (
        (tei_schemas.SimilarityRequest, {"inputs": {**sentences, "truncat": True}}),
        (tei_schemas.SimilarityRequest, {"inputs": sentences, "parameters": {"truncat": True}}),
        (tei_schemas.RootRequest, {"inputs": {**sentences, "truncat": True}}),
        (weaviate.VectorsRequest, {"text": "a", "config": {"truncat": True}}),
    ):
        assert "truncat: no field of this route" in refusal(schema, body)


@pytest.mark.parametrize(("schema", "body"), [*BODIES, *DIALECTS, *NATIVE])
def test_null_is_not_set(schema: type[BaseModel], body: dict[str, Any]) -> None:
    optional = dict.fromkeys(
        name
        for name, field in schema.model_fields.items()
        if not field.is_required() and name not in ("text", "image", "texts", "pretrained")
    )
    # ingrain's are sent in one of their two spellings.
    bare = {name: value for name, value in body.items() if name not in optional and name != "nDims"}
    unset, null = read(schema, bare), read(schema, {**bare, **optional})
    for use in ("form", "text_options", "tuning"):
        if hasattr(unset, use):
            assert getattr(null, use)() == getattr(unset, use)()


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, DEFAULT),
        ({"truncate": "NONE"}, TextOptions(truncate=False)),
        ({"truncate": "END"}, TextOptions(truncation_direction="right")),
        ({"truncate": "START"}, TextOptions(truncation_direction="left")),
        ({"truncation": False}, TextOptions(truncate=False)),
        ({"input_type": "query"}, TextOptions(input_type="query")),
        ({"input_type": "passage"}, TextOptions(input_type="document", task="passage")),
        ({"input_type": "search_query"}, TextOptions(input_type="query", task="search_query")),
        ({"task": "retrieval.passage"}, TextOptions(input_type="document", task="retrieval.passage")),
        ({"task": "classification"}, TextOptions(task="classification")),
    ],
)
def test_words_of_other_apis_for_what_is_done_to_texts(given: dict[str, Any], options: TextOptions) -> None:
    assert read(openai.EmbeddingsRequest, {**V1, **given}).text_options() == options


def test_two_ends_cannot_be_cut_off() -> None:
    body = read(openai.EmbeddingsRequest, {**V1, "truncate": "START", "truncation_direction": "right"})
    with pytest.raises(InvalidInput, match=r"^truncate: START and truncation_direction name two ends"):
        body.text_options()


def test_a_task_is_the_prompt_of_that_name_or_what_it_stands_for() -> None:
    both = {"query": "q: ", "retrieval.query": "r: ", "document": "d: "}
    assert TextOptions(input_type="query", task="retrieval.query").resolve_prompt(both, None) == "r: "
    assert TextOptions(input_type="query", task="search_query").resolve_prompt(both, None) == "q: "
    assert TextOptions(input_type="document", task="passage").resolve_prompt({}, None) == ""
    assert TextOptions(task="clustering", prompt="p: ").resolve_prompt({}, None) == "p: "
    with pytest.raises(InvalidInput, match=r"^input_type: the model has no prompt 'clustering'"):
        TextOptions(task="clustering").resolve_prompt(both, None)


def test_every_schema_of_a_body_is_closed() -> None:
    for schema, _ in [*DIALECTS, *NATIVE]:
        assert issubclass(schema, RequestBody)
        assert schema.model_json_schema()["additionalProperties"] is False


RANGES = [[-0.2] * 384, [0.2] * 384]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "binary", "ubinary", "float16"])
@pytest.mark.parametrize("name", ["embedding_dtype", "output_dtype", "embedding_type"])
def test_v1_gives_vectors_of_the_type_that_was_asked_for(client: httpx.Client, name: str, dtype: str) -> None:
    ranges = {"ranges": RANGES} if dtype.endswith("int8") else {}
    texts = ["a diver", "a dog"]
    ours = {"model_name": MINILM, "text": texts, "embedding_dtype": dtype, "normalize": True, **ranges}
    expected = np.array(client.post("/infer", json=ours).json()["text_embeddings"])
    body = {"model": MINILM, "input": texts, name: dtype, **ranges}
    rows = client.post("/v1/embeddings", json=body).json()
    assert np.array_equal([row["embedding"] for row in rows["data"]], expected)
    coded = client.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    stored = {"binary": "int8", "ubinary": "uint8"}.get(dtype, dtype)
    for row, wanted in zip(coded["data"], expected, strict=True):
        assert np.array_equal(
            np.frombuffer(base64.b64decode(row["embedding"]), stored), wanted.astype(stored)
        )


def test_v1_does_not_guess_ranges_for_other_apis(client: httpx.Client) -> None:
    body = {"model": MINILM, "input": ["a", "b"]}
    answer = client.post("/v1/embeddings", json={**body, "output_dtype": "int8"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "output_dtype")
    # By our own name, as of /infer: the ranges are in the answer.
    answer = client.post("/v1/embeddings", json={**body, "embedding_dtype": "int8"})
    assert np.array(answer.json()["ranges"]).shape == (2, 384)


def test_v1_is_told_by_the_names_it_was_asked_by(client: httpx.Client) -> None:
    for given, param in (
        ({"output_dimension": 385}, "output_dimension"),
        ({"dimensions": 385}, "dimensions"),
    ):
        answer = client.post("/v1/embeddings", json={"model": MINILM, "input": "a", **given})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)


def test_what_voyage_and_nim_ask_for(client: httpx.Client) -> None:
    text, long = "how deep do divers go?", "a " * 600 + "dog"
    voyage = {
        "model": MINILM,
        "input": [text],
        "input_type": "query",
        "truncation": True,
        "output_dimension": 64,
        "output_dtype": None,
        "encoding_format": "base64",
    }
    (row,) = client.post("/v1/embeddings", json=voyage).json()["data"]
    vector = np.frombuffer(base64.b64decode(row["embedding"]), np.float32)
    assert cosines(vector[None], embed(client, [text])[:, :64]).min() >= 0.99999
    refused = client.post("/v1/embeddings", json={**voyage, "input": long, "truncation": False})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "text_too_long")
    nim = {"model": MINILM, "input": [long], "input_type": "passage", "encoding_format": "float"}
    for word, kept in (("END", "a " * 254), ("START", "a " * 253 + "dog")):
        (row,) = client.post("/v1/embeddings", json={**nim, "truncate": word}).json()["data"]
        assert cosines(np.array([row["embedding"]]), embed(client, [kept])).min() >= 0.99999
    assert client.post("/v1/embeddings", json={**nim, "truncate": "NONE"}).status_code == 422


def test_an_answer_of_v1_has_an_id(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/embeddings", json={"model": MINILM, "input": "a"}, headers={"X-Request-ID": "7"}
    )
    assert answer.json()["id"] == "embd-7"
