"""The routes of ingrain, the first tool of this kind: `/embed`, `/embed_text`, `/embed_image`, `/load_model`.

A model has one name here, see `Catalog.named`. Keys are taken in camelCase and snake_case,
and given in camelCase. Some routes of ours have the same path and another answer there. It is given to
ingrain's client, which `User-Agent` names.

Source: the PyPI package `ingrain`, versions 0.0.7 to 0.2.3.
"""

import time
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from pydantic.alias_generators import to_camel
from starlette.responses import Response

from gateway.api.dependencies import ADMINISTRATION, services
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
from gateway.api.fields import tell_as_asked
from gateway.api.openapi import json_body, responses
from gateway.api.request_body import parse
from gateway.api.responses import json
from gateway.api.schemas import MODEL_EXAMPLE, Message, ModelReference
from gateway.errors import InvalidInput, TooLarge
from gateway.inference import vectors as forms
from gateway.inference.multimodal import both
from gateway.inference.vectors import Vectors
from gateway.model_id import Reference

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
    dependencies=ADMINISTRATION,
    openapi_extra=json_body(
        LoadModel, {"by name": {"name": MODEL_EXAMPLE, "library": "sentence_transformers"}}
    ),
)
async def load_model(request: Request) -> Message:
    """Convert where need be, load, check."""
    body = parse(LoadModel, await services(request).bodies.small(request))
    return Message(message=await services(request).jobs.start(body.reference()).result())


@router.get("/model_embedding_size")
async def model_embedding_size(request: Request, name: str) -> EmbeddingSize:
    """The length of a loaded model's vectors."""
    model = await services(request).embedder.model(await services(request).catalog.named(name))
    return EmbeddingSize(embeddingSize=model.manifest.dimensions)


def asks(request: Request) -> bool:
    """Whether it is ingrain's client that asks."""
    return request.headers.get("user-agent", "").startswith(USER_AGENT)


async def reference_in(request: Request) -> Reference:
    """The model of a body that has `model_name`, or `name` as ingrain's client sends it."""
    content = await services(request).bodies.small(request)
    if parse(NameOrModelName, content).is_named:
        return await reference(request, parse(Named, content))
    return parse(ModelReference, content).reference()


async def loaded_models(request: Request) -> LoadedModelObjects:
    """The answer of `GET /loaded_models` to ingrain's client."""
    loaded = [model.reference for model in await services(request).status.loaded()]
    return LoadedModelObjects(
        models=[
            LoadedModel(name=one.id, library="open_clip" if one.is_clip else "sentence_transformers")
            for one in loaded
        ]
    )


async def metrics(request: Request) -> dict[str, Any]:
    """The answer of `GET /metrics` to ingrain's client."""
    statistics = await services(request).status.statistics()
    return {"modelStats": [{**camel(model), "batchStats": None} for model in statistics]}


def camel(fields: dict[str, Any]) -> dict[str, Any]:
    """The same with keys in camelCase, and counts as strings, as Triton's JSON has them."""
    written: dict[str, Any] = {}
    for key, value in fields.items():
        written[to_camel(key)] = camel(value) if isinstance(value, dict) else str(value)
    return written


async def reference(request: Request, body: Named) -> Reference:
    """The model that a body names."""
    if body.pretrained is not None:
        return Reference.named(body.name, body.pretrained)
    return await services(request).catalog.named(body.name)


async def text_vectors(request: Request, body: EmbedFields, text: str | list[str] | None) -> Vectors | None:
    """Vectors float32 [n, D] of the body's texts; None for none."""
    if text is None:
        return None
    texts = [text] if isinstance(text, str) else text
    try:
        found = await services(request).embedder.embed(
            await reference(request, body),
            texts,
            normalize=body.normalize is not False,
            timeout_ms=body.timeout_ms,
        )
    except (InvalidInput, TooLarge) as error:
        tell_as_asked(error, {"text": text})
        raise
    return cut(found.vectors, body)


async def image_vectors(request: Request, body: EmbedFields, image: str | list[str] | None) -> Vectors | None:
    """Vectors float32 [n, D] of the body's images; None for none."""
    if image is None:
        return None
    images = [image] if isinstance(image, str) else image
    try:
        vectors = await services(request).image_embedder.embed(
            await reference(request, body),
            images,
            normalize=body.normalize is not False,
            timeout_ms=body.timeout_ms,
        )
    except (InvalidInput, TooLarge) as error:
        tell_as_asked(error, {"image": image})
        raise
    return cut(vectors, body)


def cut(vectors: Vectors, body: EmbedFields) -> Vectors:
    """As many dimensions as the body asks for."""
    return vectors if body.n_dims is None else forms.cut(vectors, body.n_dims)


def answer(start: float, **fields: Vectors | None) -> Response:
    """The JSON of an embedding route to a request that came at `start`, of `time.perf_counter`."""
    return json({**fields, "processingTimeMs": (time.perf_counter() - start) * 1000})
