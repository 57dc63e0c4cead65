"""Fields that are null on every embedding route."""

import base64
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from gateway.api.dialects import ingrain_schemas, openai, tei_schemas, weaviate
from gateway.api.embedding_schemas import InferImageRequest, InferRequest, InferTextRequest
from tests.support.converted_models import CLIP, STATIC
from tests.support.pictures import encoded, photo

LONG = "a dog " * 100
"""More tokens than CLIP takes."""

IMAGE = base64.b64encode(encoded(photo(40, 30), "PNG")).decode()
ROUTES: dict[str, tuple[str, type[BaseModel], dict[str, Any]]] = {
    "infer": ("/infer", InferRequest, {"model_name": CLIP, "text": LONG}),
    "infer, image": ("/infer", InferRequest, {"model_name": CLIP, "image": IMAGE}),
    "infer_text": ("/infer_text", InferTextRequest, {"model_name": CLIP, "text": LONG}),
    "infer_image": ("/infer_image", InferImageRequest, {"model_name": CLIP, "image": IMAGE}),
    "openai": ("/v1/embeddings", openai.EmbeddingsRequest, {"model": CLIP, "input": LONG}),
    "openai, image": (
        "/v1/embeddings",
        openai.EmbeddingsRequest,
        {"model": CLIP, "modality": "image", "input": [IMAGE]},
    ),
    "tei, openai": (f"/tei/{CLIP}/v1/embeddings", tei_schemas.OpenAIRequest, {"input": LONG}),
    "tei": (f"/tei/{CLIP}", tei_schemas.RootRequest, {"inputs": "a dog"}),
    "tei, embed": (f"/tei/{CLIP}/embed", tei_schemas.EmbedRequest, {"inputs": "a dog"}),
    "tei, embed too long": (f"/tei/{CLIP}/embed", tei_schemas.EmbedRequest, {"inputs": LONG}),
    "tei, embed_all": (f"/tei/{STATIC}/embed_all", tei_schemas.EmbedAllRequest, {"inputs": "a dog"}),
    "tei, similarity": (
        f"/tei/{CLIP}/similarity",
        tei_schemas.SimilarityRequest,
        {"inputs": {"source_sentence": "a dog", "sentences": ["a diver"]}},
    ),
    "tei, tokenize": (f"/tei/{CLIP}/tokenize", tei_schemas.TokenizeRequest, {"inputs": "a dog"}),
    # The first ones are special tokens.
    "tei, decode": (f"/tei/{STATIC}/decode", tei_schemas.DecodeRequest, {"ids": list(range(9))}),
    "weaviate": (f"/weaviate/{CLIP}/vectors", weaviate.VectorsRequest, {"text": LONG}),
    "weaviate, both": (
        f"/weaviate/{CLIP}/vectorize",
        weaviate.VectorizeRequest,
        {"texts": [LONG], "images": [IMAGE]},
    ),
    "ingrain": ("/embed", ingrain_schemas.Embed, {"name": CLIP, "text": LONG, "image": IMAGE}),
    "ingrain, text": ("/embed_text", ingrain_schemas.EmbedText, {"name": CLIP, "text": LONG}),
    "ingrain, image": ("/embed_image", ingrain_schemas.EmbedImage, {"name": CLIP, "image": IMAGE}),
}


@pytest.mark.parametrize("route", ROUTES)
def test_null_is_answered_as_if_not_sent(api: httpx.Client, route: str) -> None:
    path, schema, body = ROUTES[route]

    def asked(**more: None) -> tuple[int, Any]:
        answer = api.post(path, json={**body, **more}, headers={"X-Request-ID": "7"})
        content = answer.json()
        if isinstance(content, dict):
            content.pop("processingTimeMs", None)
        return answer.status_code, content

    expected = asked()
    assert expected[0] == (413 if route == "tei, embed too long" else 200), expected
    for name, field in schema.model_fields.items():
        if not field.is_required() and name not in body:
            assert asked(**{name: None}) == expected, name
