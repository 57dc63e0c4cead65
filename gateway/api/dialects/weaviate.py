"""The API of Weaviate's inference containers; the base URL `/weaviate/{model}` selects the model.

`/vectors` serves the module `text2vec-transformers`, `/vectorize` the module `multi2vec-clip`. Pooling is
part of the model, so `pooling_strategy` is accepted and ignored.

Source: Weaviate's modules of these names and their containers. Weaviate sends no `Content-Type` and no key.
"""

from functools import partial
from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from gateway.api.base_schemas import Nested, RequestBody
from gateway.api.dependencies import services
from gateway.api.dialects.any_kind import loaded_model
from gateway.api.embedding_schemas import Strings
from gateway.api.fields import named_as_asked
from gateway.api.openapi import json_body, responses
from gateway.api.responses import json_response
from gateway.api.schemas import IMAGE_EXAMPLE
from gateway.inference.multimodal import both
from gateway.inference.vectors import Vectors
from gateway.text.prompts import DEFAULT, TextOptions

TASKS: dict[str, TextOptions] = {
    "query": TextOptions(input_type="query"),
    "passage": TextOptions(input_type="document"),
}


class VectorsConfig(Nested):
    """Settings of a Weaviate collection."""

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
    """Answer of `/vectors`; `dim` is the number of dimensions of the vector."""

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
    """Answer of `/vectorize`: one vector of unit length for each input."""

    textVectors: list[list[float]]  # noqa: N815 - the container's spelling
    imageVectors: list[list[float]]  # noqa: N815 - the container's spelling


class Meta(BaseModel):
    """Answer of `/meta`, which Weaviate displays."""

    model_name: str
    dimensions: int
    max_input_length: int | None


class WeaviateError(BaseModel):
    """Body of every error."""

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
    """Return the vector of one text, for `text2vec-transformers`."""
    async with services(request).bodies.parsed(request, VectorsRequest) as body:
        task = body.config.task_type if body.config else None
        options = TASKS.get(task or "", DEFAULT)
        with named_as_asked({"text": body.text}):
            found = await embed_texts(request, model, [body.text], options, normalize=False, field="text")
        return json_response({"text": body.text, "vector": found[0], "dim": found.shape[1]})


@router.post(
    "/{model:path}/vectorize",
    response_model=VectorizeAnswer,
    openapi_extra=json_body(VectorizeRequest, {"texts": {"texts": ["a diver"], "images": []}}),
)
async def vectorize(request: Request, model: str) -> Response:
    """Return the vectors of texts and images, for `multi2vec-clip`."""
    async with services(request).bodies.parsed(request, VectorizeRequest) as body:
        texts, images = await both(
            partial(embed_texts, request, model, body.texts or [], DEFAULT, normalize=True),
            partial(embed_images, request, model, body.images or []),
        )
    return json_response({"textVectors": texts, "imageVectors": images})


@router.get("/{model:path}/meta")
async def meta(request: Request, model: str) -> Meta:
    """Describe the model."""
    found = await loaded_model(request, model)
    return Meta(
        model_name=found.model_id.id,
        dimensions=found.manifest.dimensions,
        max_input_length=found.tokenizer.limit,
    )


@router.get("/{model:path}/.well-known/ready", status_code=204, response_class=Response)
async def ready(request: Request, model: str) -> None:
    """Answer 204 if the model can serve requests now."""
    await loaded_model(request, model)


@router.get("/{model:path}/.well-known/live", status_code=204, response_class=Response)
async def live(model: str) -> None:
    """Answer 204 as long as the process responds."""


async def embed_texts(
    request: Request,
    model: str,
    texts: list[str],
    options: TextOptions,
    *,
    normalize: bool,
    field: str = "texts",
) -> Vectors | Any:  # noqa: ANN401
    """Return the vectors of texts, float32 [n, D]; an empty list if there are no texts."""
    if not texts:
        return []
    model_id = await services(request).catalog.named(model)
    found = await services(request).embedder.embed(
        model_id, texts, normalize=normalize, options=options, field=field
    )
    return found.vectors


async def embed_images(request: Request, model: str, images: list[str]) -> Vectors | Any:  # noqa: ANN401
    """Return the vectors of images, scaled to unit length: float32 [n, D]; an empty list for no images."""
    if not images:
        return []
    model_id = await services(request).catalog.named(model)
    return await services(request).image_embedder.embed(model_id, images, normalize=True, field="images")
