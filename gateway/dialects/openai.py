"""OpenAI's embeddings API: `POST /v1/embeddings`, `GET /v1/models`.

Source: OpenAI's API reference. Images are asked for as with infinity: `"modality": "image"`, and as `input`
data URIs, URLs or base64.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StrictInt
from starlette.responses import Response

from gateway import forms
from gateway.answers import JSON, PLAIN_JSON, Answer, EncodingFormat
from gateway.embedding_schemas import Deadline, TextFields
from gateway.errors import EmptyInput, InvalidInput, ModelNotFound
from gateway.forms import Vectors
from gateway.openapi import responses
from gateway.references import Reference
from gateway.routing import json, json_body, services, written
from gateway.schemas import IMAGE_EXAMPLE, MODEL_EXAMPLE
from gateway.services import Services
from gateway.status import LoadedModel

OWNER = "embedding-server"

Ids = list[StrictInt]
Input = Annotated[
    str | list[str] | Ids | list[Ids],
    Field(
        union_mode="left_to_right",
        description="A text, texts, the token ids of a text, or of texts; with `modality` image, images.",
        examples=[["a diver", "a dog"]],
    ),
]


class EmbeddingsRequest(TextFields, Deadline):
    """Body of `POST /v1/embeddings`: OpenAI's fields, then those of this server."""

    model: str = Field(
        description="Its name in one word; of a CLIP model `NAME:PRETRAINED`.",
        examples=[MODEL_EXAMPLE, "ViT-B-32:laion2b_s34b_b79k"],
    )
    input: Input
    encoding_format: EncodingFormat | None = Field(
        "float", description="Of each vector: numbers, or base64 of little-endian float32."
    )
    dimensions: int | None = Field(
        None, ge=1, description="Keep so many dimensions, the first ones, and scale to unit length again."
    )
    user: str | None = Field(None, description="Accepted and not used.")
    modality: Literal["text", "image"] = Field(
        "text", description="What `input` is: texts, or data URIs, http(s) URLs or base64 of images."
    )
    normalize: bool = Field(
        True, description="Unit length, as OpenAI's vectors have; false: as the model gives them."
    )


EXAMPLES: dict[str, Any] = {
    "texts": {"model": MODEL_EXAMPLE, "input": ["a diver", "a dog"]},
    "as OpenAI's client": {"model": MODEL_EXAMPLE, "input": "a diver", "encoding_format": "base64"},
    "token ids": {"model": MODEL_EXAMPLE, "input": [[101, 7592, 102]]},
    "images": {"model": "ViT-B-32:laion2b_s34b_b79k", "modality": "image", "input": [IMAGE_EXAMPLE]},
}


class Embedding(BaseModel):
    """One vector; a string for `encoding_format` base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens that the model got, special ones included; none of an image."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """Answer of `POST /v1/embeddings`; `model` is as the request names it."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    """One loaded model; `created` is when it was converted, in seconds since 1970."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"]
    data: list[Model]


class Error(BaseModel):
    """What is wrong; `param` is the field at fault, `code` the kind in one word."""

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """Every error's body below `/v1`."""

    error: Error


ERRORS = responses(401, 404, 409, 413, 422, 429, 503, 504, model=OpenAIError)

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=ERRORS)


@router.post(
    "/embeddings", response_model=EmbeddingList, openapi_extra=json_body(EmbeddingsRequest, EXAMPLES)
)
async def post_embeddings(request: Request) -> Response:
    """Embed texts, token ids or images."""
    start = time.perf_counter()
    async with services(request).bodies.parsed(request, EmbeddingsRequest) as body:
        return written(await embeddings(services(request), body, start, JSON))


@router.get("/models", response_model=Models)
async def list_models(request: Request) -> Response:
    """The loaded models."""
    loaded = await services(request).status.loaded()
    return json({"object": "list", "data": [as_model(model) for model in loaded]})


@router.get("/models/{model:path}", response_model=Model)
async def get_model(request: Request, model: str) -> Response:
    """One loaded model."""
    reference = await services(request).catalog.named(model)
    for found in await services(request).status.loaded():
        if found.reference == reference:
            return json(as_model(found))
    raise ModelNotFound(f"model {reference} is not loaded; GET /v1/models lists those that are")


async def embeddings(services: Services, body: EmbeddingsRequest, _start: float, _media: str) -> Answer:
    """The answer to a body of `POST /v1/embeddings`, which is always JSON."""
    vectors, tokens = await embed(services, body)
    if body.dimensions is not None:
        vectors = forms.cut(vectors, body.dimensions)
    rows: Any = forms.base64_rows(vectors) if body.encoding_format == "base64" else vectors
    fields = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return Answer(orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY), PLAIN_JSON)


async def embed(services: Services, body: EmbeddingsRequest) -> tuple[Vectors, int]:
    """Vectors float32 [n, D] of the body's input, and its tokens."""
    inputs, single = as_list(body.input)
    if not inputs:
        raise EmptyInput("input: an empty list; send at least one input")
    reference = await services.catalog.named(body.model)
    with places("input", single=single):
        if body.modality == "image":
            if not isinstance(inputs[0], str):
                raise InvalidInput("input: token ids are no images; send data URIs, URLs or base64")
            return await services.image_embedder.embed(
                reference, inputs, normalize=body.normalize, field="input", timeout_ms=body.timeout_ms
            ), 0
        return await services.embedder.embed(
            reference,
            inputs,
            normalize=body.normalize,
            options=body.text_options(),
            field="input",
            timeout_ms=body.timeout_ms,
        )


def asked(body: EmbeddingsRequest) -> tuple[Reference, int] | None:
    """The model and the number of texts that a body asks for; None where it asks for images.

    Raises:
        InvalidModelName: no model can have this name.
    """
    if body.modality == "image":
        return None
    return Reference.parse(body.model), len(as_list(body.input)[0])


def as_list(given: Any) -> tuple[list[Any], bool]:  # noqa: ANN401 - `Input`
    """The inputs, and whether it was a single one: a text, or the token ids of one."""
    single = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    return [given] if single else given, single


@contextmanager
def places(field: str, *, single: bool) -> Iterator[None]:
    """Let messages tell a place in a single input without the index that its caller did not write."""
    try:
        yield
    except InvalidInput as error:
        if not single:
            raise
        raise type(error)(re.sub(rf"^{field}\.0\b", field, str(error))) from error


def as_model(model: LoadedModel) -> dict[str, Any]:
    """A loaded model as OpenAI describes models."""
    return {
        "id": model.reference.id,
        "object": "model",
        "created": model.converted,
        "owned_by": OWNER,
    }
