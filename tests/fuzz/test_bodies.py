"""Bodies of every route: each fits its schema or is refused in one line, large ones like small ones."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel

from gateway.api import request_body, schemas
from gateway.api.dialects import ingrain_schemas, openai, tei_schemas, weaviate
from gateway.api.embedding_schemas import InferImageRequest, InferRequest, InferTextRequest
from gateway.api.request_body import parse
from gateway.api.responses import JSON, NPY, OCTETS, media_type
from gateway.errors import InvalidInput
from tests.fuzz.mutations import broken_json, damaged_json, one_line

_NAMED = {"model_name": "ViT-B-32", "pretrained": "tag"}
_FORM = {
    "normalize": True,
    "dimensions": 3,
    "encoding_format": "base64",
    "embedding_dtype": "int8",
    "ranges": [[-1.0, 0, 0.5], [1, 2, 3e5]],
}
_TEXTS = {
    "prompt_name": "query",
    "prompt": "query: ",
    "input_type": "document",
    "truncate": False,
    "truncation_direction": "left",
}
_TUNED = {"max_batch_size": 8, "max_queue_delay_microseconds": 0, "instances": 1, "response_cache": False}
_INGRAIN = {"name": "ViT-B-32", "pretrained": "tag", "normalize": None, "nDims": 3}

BODIES: tuple[tuple[type[BaseModel], dict[str, Any]], ...] = (
    (InferRequest, {**_NAMED, **_FORM, **_TEXTS, "text": ["a", "b"], "image": "AA=="}),
    (InferTextRequest, {**_NAMED, **_FORM, **_TEXTS, "text": "a"}),
    (InferImageRequest, {**_NAMED, **_FORM, "image": ["data:,a", "http://a/b"]}),
    (schemas.LoadSentenceTransformer, {"model_name": "owner/name", "revision": "main", **_TUNED}),
    (schemas.LoadClip, {**_NAMED, **_TUNED}),
    (schemas.ModelReference, _NAMED),
    (
        openai.EmbeddingsRequest,
        {"model": "m", "input": [[1, 2], [3]], "dimensions": 3, "user": "u", **_TEXTS},
    ),
    (openai.EmbeddingsRequest, {"model": "m", "input": ["a", "b"], "modality": "image", "normalize": False}),
    (tei_schemas.OpenAIRequest, {"input": [1, 2], "encoding_format": None}),
    (tei_schemas.EmbedRequest, {"inputs": [[1], [2]], "truncate": None, "truncation_direction": "Left"}),
    (tei_schemas.EmbedAllRequest, {"inputs": ["a"], "truncate": True, "prompt_name": "query"}),
    (
        tei_schemas.SimilarityRequest,
        {"inputs": {"source_sentence": "a", "sentences": ["b"]}, "parameters": {}},
    ),
    (tei_schemas.TokenizeRequest, {"inputs": ["a"], "add_special_tokens": False, "prompt_name": "query"}),
    (tei_schemas.DecodeRequest, {"ids": [[1, 2]], "skip_special_tokens": False}),
    (tei_schemas.RootRequest, {"inputs": {"a": ["b"]}}),
    (weaviate.VectorsRequest, {"text": "a", "config": {"pooling_strategy": "cls", "task_type": "query"}}),
    (weaviate.VectorizeRequest, {"texts": ["a"], "images": ["AA=="]}),
    (ingrain_schemas.EmbedText, {**_INGRAIN, "text": ["a"]}),
    (ingrain_schemas.EmbedImage, {**_INGRAIN, "image": ["AA=="]}),
    (ingrain_schemas.Embed, {**_INGRAIN, "text": "a", "image": "AA=="}),
    (ingrain_schemas.LoadModel, {"name": "ViT-B-32/tag", "library": "open_clip"}),
)
"""Of every schema a body that has all its fields."""

LARGE = (InferRequest, openai.EmbeddingsRequest, weaviate.VectorizeRequest, ingrain_schemas.Embed)
"""Those of routes that take images, which may be large."""


def told(error: InvalidInput) -> None:
    one_line(error)
    assert len(str(error)) < 1000
    orjson.dumps({"detail": str(error)})


def read(schema: type[BaseModel], content: bytes) -> BaseModel | None:
    """The body, or None where it is refused, in a line that can be sent."""
    try:
        return parse(schema, content)
    except InvalidInput as error:
        told(error)
        return None


def test_every_schema_is_tried() -> None:
    for schema, body in BODIES:
        assert read(schema, json.dumps(body).encode()) is not None, schema


@given(st.randoms(use_true_random=False), st.sampled_from(BODIES))
def test_any_body_fits_or_is_refused(
    rng: random.Random, case: tuple[type[BaseModel], dict[str, Any]]
) -> None:
    schema, body = case
    found = read(schema, broken_json(rng, body))
    # What the routes do with what fits.
    for use in ("form", "text_options", "tuning", "reference"):
        if hasattr(found, use):
            try:
                getattr(found, use)()
            except InvalidInput as error:
                orjson.dumps({"detail": str(error)})


@given(st.binary(max_size=200), st.sampled_from(BODIES))
def test_any_bytes_fit_or_are_refused(content: bytes, case: tuple[type[BaseModel], dict[str, Any]]) -> None:
    read(case[0], content)


@contextmanager
def long_from(size: int) -> Iterator[None]:
    """Strings count as long from here on: cases stay small."""
    before, request_body._LONG = request_body._LONG, size
    try:
        yield
    finally:
        request_body._LONG = before


def in_pieces(schema: type[BaseModel], content: bytes) -> BaseModel | None:
    with long_from(32):
        try:
            return request_body.parse_large(schema, bytearray(content))
        except InvalidInput as error:
            orjson.dumps({"detail": str(error)})
            return None


def strings() -> st.SearchStrategy[str]:
    """Long ones, with what matters to a scanner of strings."""
    pieces = st.sampled_from(
        ("A" * 33, '"', "\\", "\\\\", '\\"', "é", "🙂", "\n", "\x7f", "\u2028", "\0", ",", "}", ":")
    )
    return st.lists(pieces, max_size=8).map("".join) | st.text(max_size=50)


def texts() -> st.SearchStrategy[bytes]:
    """JSON with such strings in the fields of inputs, written in one of the ways to write it."""
    document = st.fixed_dictionaries(
        {"model_name": st.just("m"), "model": st.just("m"), "name": st.just("m")},
        optional={
            name: strings() | st.lists(strings(), min_size=1, max_size=4)
            for name in ("text", "image", "input", "texts", "images")
        },
    )
    return st.builds(
        lambda value, ascii_only, indent: json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(
            errors="surrogatepass"
        ),
        document,
        st.booleans(),
        st.sampled_from((None, 1)),
    )


def short(value: object) -> bool:
    return not isinstance(value, str) or len(value.encode()) <= 32


@given(texts(), st.sampled_from(LARGE))
def test_reading_in_pieces_is_reading(content: bytes, schema: type[BaseModel]) -> None:
    assert in_pieces(schema, content) == read(schema, content)


RAW_LONG = b'{"model_name": "m", "model": "m", "text": "%s", "input": "%s"}'


@given(
    damaged_json(
        *({**body, "text": "A" * 40, "image": ["é" * 20], "input": "\\" * 20} for _, body in BODIES)
    ),
    st.sampled_from(LARGE),
)
@example(RAW_LONG % (b"A" * 40 + b"\n", b"A"), InferRequest)
@example(RAW_LONG % (b"A" * 40 + b"\xed\xa0\x80", b"A"), InferRequest)
@example(RAW_LONG % (b"A" * 40 + b"\0", b"A"), InferRequest)
def test_what_is_refused_whole_is_refused_in_pieces(content: bytes, schema: type[BaseModel]) -> None:
    whole, pieces = read(schema, content), in_pieces(schema, content)
    if whole is None:
        assert pieces is None
    elif pieces is None:
        # The one difference: other fields than those of inputs may not be long.
        assert not all(short(value) for name, value in whole if name not in request_body._INPUTS)
    else:
        assert pieces == whole


@given(st.text(max_size=60) | st.text("application/x-npyoctetsjm ;q=0.1,*einf", max_size=60))
@example("application/x-npy;q=nan, application/json")
@example("application/octet-stream;q=, ;;,=")
def test_any_accept_header_means_something(accept: str) -> None:
    assert media_type(accept) in (JSON, NPY, OCTETS)
