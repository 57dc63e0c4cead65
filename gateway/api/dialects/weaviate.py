"""The API of Weaviate's inference containers, one model at an origin: `/weaviate/{model}`.

`/vectors` is that of `text2vec-transformers`, `/vectorize` that of `multi2vec-clip`. Vectors are the
model's own: its pooling is part of it, so `pooling_strategy` is accepted and not used.

Source: Weaviate's modules of these names and their containers. Weaviate sends no `Content-Type` and no key.
"""

from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway.api.base_schemas import Nested, RequestBody
from gateway.api.dependencies import services
from gateway.api.embedding_schemas import Strings
from gateway.api.fields import tell_as_asked
from gateway.api.openapi import json_body, responses
from gateway.api.responses import json
from gateway.api.schemas import IMAGE_EXAMPLE
from gateway.errors import InvalidInput, TooLarge
from gateway.inference.multimodal import both
from gateway.inference.vectors import Vectors
from gateway.text.prompts import DEFAULT, TextOptions

TASKS: dict[str, TextOptions] = {
    "query": TextOptions(input_type="query"),
    "passage": TextOptions(input_type="document"),
}


class VectorsConfig(Nested):
    """What a collection's settings say."""

    is_dialect = True

    pooling_strategy: str | None = Field(None, description="Accepted and not used: the model has its own.")
    task_type: Literal["query", "passage", ""] | None = Field(
        None, description="Puts the model's prompt for queries or passages before the text, where it has one."
    )


class VectorsRequest(RequestBody):
    """Body of `/vectors`."""

    is_dialect = True
    harmless = frozenset({"dims", "vector", "error"})

    text: str = Field(description="The text.", examples=["a diver"])
    config: VectorsConfig | None = Field(None, description="What a collection's settings say.")


class VectorsAnswer(BaseModel):
    """Answer of `/vectors`; dim: the length of the vector."""

    text: str
    vector: list[float]
    dim: int


class VectorizeRequest(RequestBody):
    """Body of `/vectorize`."""

    is_dialect = True

    texts: Strings | None = Field(None, description="Texts; null for none.", examples=[["a diver"]])
    images: Strings | None = Field(
        None, description="Base64, data URIs or http(s) URLs; null for none.", examples=[[IMAGE_EXAMPLE]]
    )


class VectorizeAnswer(BaseModel):
    """Answer of `/vectorize`: vectors of unit length, one for each input."""

    textVectors: list[list[float]]  # noqa: N815 - the container's spelling
    imageVectors: list[list[float]]  # noqa: N815 - the container's spelling


class Meta(BaseModel):
    """Answer of `/meta`, which Weaviate shows."""

    model_name: str
    dimensions: int
    max_input_length: int | None


class WeaviateError(BaseModel):
    """Every error's body."""

    error: str


router = APIRouter(
    prefix="/weaviate",
    tags=["Weaviate"],
    responses=responses(401, 404, 409, 413, 415, 422, 429, 503, 504, model=WeaviateError),
)


@router.post(
    "/{model:path}/vectors",
    response_model=VectorsAnswer,
    openapi_extra=json_body(
        VectorsRequest, {"a text": {"text": "a diver", "config": {"pooling_strategy": "masked_mean"}}}
    ),
)
async def vectors(request: Request, model: str) -> Response:
    """The vector of one text, for `text2vec-transformers`."""
    async with services(request).bodies.parsed(request, VectorsRequest) as body:
        task = body.config.task_type if body.config else None
        options = TASKS.get(task or "", DEFAULT)
        try:
            found = await embed_texts(request, model, [body.text], options, normalize=False, field="text")
        except (InvalidInput, TooLarge) as error:
            tell_as_asked(error, {"text": body.text})
            raise
        return json({"text": body.text, "vector": found[0], "dim": found.shape[1]})


@router.post(
    "/{model:path}/vectorize",
    response_model=VectorizeAnswer,
    openapi_extra=json_body(VectorizeRequest, {"texts": {"texts": ["a diver"], "images": []}}),
)
async def vectorize(request: Request, model: str) -> Response:
    """Vectors of texts and images, for `multi2vec-clip`."""
    async with services(request).bodies.parsed(request, VectorizeRequest) as body:
        texts, images = await both(
            partial(embed_texts, request, model, body.texts or [], DEFAULT, normalize=True),
            partial(embed_images, request, model, body.images or []),
        )
    return json({"textVectors": texts, "imageVectors": images})


@router.get("/{model:path}/meta")
async def meta(request: Request, model: str) -> Meta:
    """What the model is."""
    found = await services(request).embedder.model(await services(request).catalog.named(model))
    return Meta(
        model_name=found.reference.id,
        dimensions=found.manifest.dimensions,
        max_input_length=found.tokenizer.limit,
    )


@router.get("/{model:path}/.well-known/ready", status_code=204, response_class=Response)
async def ready(request: Request, model: str) -> None:
    """204 when the model could be asked now."""
    await services(request).embedder.model(await services(request).catalog.named(model))


@router.get("/{model:path}/.well-known/live", status_code=204, response_class=Response)
async def live(model: str) -> None:
    """204 while the process answers."""


async def embed_texts(
    request: Request,
    model: str,
    texts: list[str],
    options: TextOptions,
    *,
    normalize: bool,
    field: str = "texts",
) -> Vectors | Any:  # noqa: ANN401
    """Vectors float32 [n, D]; an empty list for none."""
    if not texts:
        return []
    reference = await services(request).catalog.named(model)
    found = await services(request).embedder.embed(
        reference, texts, normalize=normalize, options=options, field=field
    )
    return found.vectors


async def embed_images(request: Request, model: str, images: list[str]) -> Vectors | Any:  # noqa: ANN401
    """Vectors float32 [n, D]; an empty list for none."""
    if not images:
        return []
    reference = await services(request).catalog.named(model)
    return await services(request).image_embedder.embed(reference, images, normalize=True, field="images")
