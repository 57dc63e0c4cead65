"""The API of ingrain, an earlier tool of this kind: `/embed`, `/embed_text`, `/embed_image`, `/load_model`.

A model is named by one word, see `Catalog.named`. Requests may use camelCase or snake_case; answers use
camelCase. Some native routes have the same path as ingrain's but another answer. They give ingrain's answer
to ingrain's client, which they recognise by its `User-Agent`.

Source: the PyPI package `ingrain`, versions 0.0.7 to 0.2.3.
"""

import time
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic.alias_generators import to_camel
from starlette.responses import Response

from gateway.api.dependencies import ADMIN_ONLY, services
from gateway.api.dialects.ingrain_schemas import (
    IMAGES,
    TEXTS,
    Embed,
    EmbedAnswer,
    EmbedBothAnswer,
    EmbeddingSize,
    EmbedFields,
    EmbedImage,
    EmbedText,
    LoadedModel,
    LoadedModelObjects,
    LoadModel,
    Named,
    NameOrModelName,
)
from gateway.api.fields import named_as_asked
from gateway.api.openapi import json_body, responses
from gateway.api.request_body import parse
from gateway.api.responses import json_response
from gateway.api.schemas import MODEL_EXAMPLE, Message, ModelReference
from gateway.inference import vectors as forms
from gateway.inference.multimodal import both
from gateway.inference.vectors import Vectors
from gateway.model_id import ModelId

USER_AGENT = "ingrain-client/"

router = APIRouter(tags=["ingrain"], responses=responses(401, 404, 409, 413, 415, 422, 429, 503, 504))


@router.post("/embed_text", response_model=EmbedAnswer, openapi_extra=json_body(EmbedText, {"texts": TEXTS}))
async def embed_text(request: Request) -> Response:
    """Embed texts."""
    start = time.perf_counter()
    async with services(request).bodies.parsed(request, EmbedText) as body:
        return answer(start, embeddings=await text_vectors(request, body, body.text))


@router.post(
    "/embed_image", response_model=EmbedAnswer, openapi_extra=json_body(EmbedImage, {"images": IMAGES})
)
async def embed_image(request: Request) -> Response:
    """Embed images."""
    start = time.perf_counter()
    async with services(request).bodies.parsed(request, EmbedImage) as body:
        return answer(start, embeddings=await image_vectors(request, body, body.image))


@router.post(
    "/embed",
    response_model=EmbedBothAnswer,
    openapi_extra=json_body(Embed, {"texts": TEXTS, "texts and images": {**IMAGES, "text": "a diver"}}),
)
async def embed(request: Request) -> Response:
    """Embed texts, images or both."""
    start = time.perf_counter()
    async with services(request).bodies.parsed(request, Embed) as body:
        texts, images = await both(
            partial(text_vectors, request, body, body.text), partial(image_vectors, request, body, body.image)
        )
        return answer(start, textEmbeddings=texts, imageEmbeddings=images)


@router.post(
    "/load_model",
    response_model=Message,
    responses=responses(403),
    dependencies=ADMIN_ONLY,
    openapi_extra=json_body(
        LoadModel, {"by name": {"name": MODEL_EXAMPLE, "library": "sentence_transformers"}}
    ),
)
async def load_model(request: Request) -> Message:
    """Convert a model if needed, load it and check it."""
    body = parse(LoadModel, await services(request).bodies.small(request))
    return Message(message=await services(request).jobs.start(body.model_id()).result())


@router.get("/model_embedding_size")
async def model_embedding_size(request: Request, name: str) -> EmbeddingSize:
    """Return the number of dimensions of a loaded model's vectors."""
    model = await services(request).embedder.model(await services(request).catalog.named(name))
    return EmbeddingSize(embeddingSize=model.manifest.dimensions)


def asks(request: Request) -> bool:
    """Return whether ingrain's client sent the request."""
    return request.headers.get("user-agent", "").startswith(USER_AGENT)


async def reference_in(request: Request) -> ModelId:
    """Read the model from a body with `model_name`, or with `name` as ingrain's client sends it."""
    content = await services(request).bodies.small(request)
    if parse(NameOrModelName, content).is_named:
        return await model_id(request, parse(Named, content))
    return parse(ModelReference, content).model_id()


async def loaded_models(request: Request) -> LoadedModelObjects:
    """Return the answer to `GET /loaded_models` for ingrain's client."""
    loaded = [model.model_id for model in await services(request).status.loaded()]
    return LoadedModelObjects(
        models=[
            LoadedModel(name=one.id, library="open_clip" if one.is_clip else "sentence_transformers")
            for one in loaded
        ]
    )


async def metrics(request: Request) -> dict[str, Any]:
    """Return the answer to `GET /metrics` for ingrain's client."""
    statistics = await services(request).status.statistics()
    return {"modelStats": [{**camel(model), "batchStats": None} for model in statistics]}


def camel(fields: dict[str, Any]) -> dict[str, Any]:
    """Convert keys to camelCase and values to strings, as in Triton's JSON, in nested dictionaries too."""
    written: dict[str, Any] = {}
    for key, value in fields.items():
        written[to_camel(key)] = camel(value) if isinstance(value, dict) else str(value)
    return written


async def model_id(request: Request, body: Named) -> ModelId:
    """Return the identity of the model that a body names."""
    if body.pretrained is not None:
        return ModelId.named(body.name, body.pretrained)
    return await services(request).catalog.named(body.name)


async def text_vectors(request: Request, body: EmbedFields, text: str | list[str] | None) -> Vectors | None:
    """Return the vectors of texts, embedded as the body asks: float32 [n, D]; None if `text` is None."""
    if text is None:
        return None
    texts = [text] if isinstance(text, str) else text
    with named_as_asked({"text": text}):
        found = await services(request).embedder.embed(
            await model_id(request, body),
            texts,
            normalize=body.normalize is not False,
            timeout_ms=body.timeout_ms,
        )
    return cut(found.vectors, body)


async def image_vectors(request: Request, body: EmbedFields, image: str | list[str] | None) -> Vectors | None:
    """Return the vectors of images, embedded as the body asks: float32 [n, D]; None if `image` is None."""
    if image is None:
        return None
    images = [image] if isinstance(image, str) else image
    with named_as_asked({"image": image}):
        vectors = await services(request).image_embedder.embed(
            await model_id(request, body),
            images,
            normalize=body.normalize is not False,
            timeout_ms=body.timeout_ms,
        )
    return cut(vectors, body)


def cut(vectors: Vectors, body: EmbedFields) -> Vectors:
    """Keep the dimensions that the body asks for; by default all."""
    return vectors if body.n_dims is None else forms.cut(vectors, body.n_dims)


def answer(start: float, **fields: Vectors | None) -> Response:
    """Return the JSON response of an embedding route.

    Args:
        start: when the request arrived, in seconds of `time.perf_counter`.
        **fields: vectors float32 [n, D] by the name of their JSON field.
    """
    return json_response({**fields, "processingTimeMs": (time.perf_counter() - start) * 1000})
