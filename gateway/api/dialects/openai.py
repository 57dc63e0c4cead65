"""OpenAI's embeddings API: `POST /v1/embeddings`, `GET /v1/models`.

Source: OpenAI's API reference. Images are sent as to the infinity server: `"modality": "image"`, with data
URIs, URLs or base64 as `input`.
"""

import asyncio
import time
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request
from pydantic import Field, StrictInt
from starlette.responses import Response

from gateway.api import fields
from gateway.api.dependencies import services
from gateway.api.dialects.openai_schemas import EmbeddingList, Model, Models, OpenAIError
from gateway.api.embedding_schemas import Strings, TextFields, TimeoutField, VectorFields
from gateway.api.openapi import json_body, responses
from gateway.api.responses import (
    JSON,
    PLAIN,
    PLAIN_JSON,
    Answer,
    OutputFormat,
    json_response,
    shaped,
    to_response,
)
from gateway.api.schemas import IMAGE_EXAMPLE, MODEL_EXAMPLE
from gateway.api.services import Services
from gateway.errors import EmptyInput, InvalidInput
from gateway.inference.vectors import Vectors, base64_rows
from gateway.models.status import LoadedModel
from gateway.text.prompts import TextOptions
from triton_models.client.requests import REQUEST_ID
from triton_models.contract.prompts import InputType

OWNER = "embedding-server"

Ids = Annotated[list[StrictInt], Field(fail_fast=True)]
Input = Annotated[
    str | Strings | Ids | Annotated[list[Ids], Field(fail_fast=True)],
    Field(
        union_mode="left_to_right",
        description="A text, texts, the token ids of a text, or of texts; with `modality` image, images.",
        examples=[["a diver", "a dog"]],
    ),
]

PURPOSES: dict[str, InputType] = {
    **dict.fromkeys(("query", "search_query", "retrieval.query", "code.query"), "query"),
    **dict.fromkeys(
        ("document", "passage", "search_document", "retrieval.passage", "code.passage"), "document"
    ),
}
"""Our input type for the words that Cohere, Voyage, NIM and Jina use."""

Purpose = Literal[
    "query",
    "document",
    "passage",
    "search_query",
    "search_document",
    "retrieval.query",
    "retrieval.passage",
    "code.query",
    "code.passage",
    "classification",
    "clustering",
    "separation",
    "text-matching",
]

END_OF_NIM: dict[Any, Literal["left", "right"]] = {"START": "left", "END": "right"}
"""The end that NIM and Cohere cut off, by the value of `truncate`."""


class EmbeddingsRequest(TextFields, VectorFields, TimeoutField):
    """Body of `POST /v1/embeddings`: OpenAI's fields, then those of this server."""

    is_dialect = True

    model: str = Field(
        description="Its name in one word; of a CLIP model `NAME:PRETRAINED`.",
        examples=[MODEL_EXAMPLE, "ViT-B-32:laion2b_s34b_b79k"],
    )
    input: Input
    modality: Literal["text", "image"] | None = Field(
        "text", description="What `input` is: texts, or data URIs, http(s) URLs or base64 of images."
    )
    normalize: bool | None = Field(
        True, description="Unit length, as OpenAI's vectors have; false: as the model gives them."
    )
    input_type: Purpose | None = Field(  # type: ignore[assignment]
        None,
        description="The model's prompt for it, unless `prompt` or `prompt_name` is given. All words for "
        "queries, and all for documents, mean the same; the others need a prompt of that name.",
    )
    truncate: bool | Literal["NONE", "START", "END"] | None = Field(  # type: ignore[assignment]
        True, description="Shorten a text longer than the model takes, at this end; false, NONE: refuse it."
    )

    def text_options(self) -> TextOptions:
        """Return the options of the tokenizer that the fields describe."""
        if self.input_type is None and self.truncate is True:
            return super().text_options()
        end = END_OF_NIM.get(self.truncate)
        if end is not None and self.truncation_direction not in (None, end):
            raise InvalidInput(f"truncate: {self.truncate} and truncation_direction name two ends; send one")
        return TextOptions(
            self.prompt_name,
            self.prompt,
            PURPOSES.get(self.input_type or ""),
            self.truncate not in (False, "NONE"),
            end or self.truncation_direction,
            None if self.input_type in ("query", "document") else self.input_type,
        )

    def form(self) -> OutputFormat:
        """Return the output format that the fields describe.

        Raises:
            InvalidInput: another API's field asks for int8 or uint8 without `ranges`. Clients of such an API
                compare vectors of several requests, but each request would get ranges of its own.
        """
        form = super().form()
        if form.calibrates:
            for name in self.__pydantic_extra__ or ():
                if fields.OTHER_NAMES.get(name) == "embedding_dtype":
                    raise InvalidInput(
                        f"{name}: {form.dtype} needs ranges, the least and largest value of each dimension"
                    )
        return form


EXAMPLES: dict[str, Any] = {
    "texts": {"model": MODEL_EXAMPLE, "input": ["a diver", "a dog"]},
    "as OpenAI's client": {"model": MODEL_EXAMPLE, "input": "a diver", "encoding_format": "base64"},
    "token ids": {"model": MODEL_EXAMPLE, "input": [[101, 7592, 102]]},
    "images": {"model": "ViT-B-32:laion2b_s34b_b79k", "modality": "image", "input": [IMAGE_EXAMPLE]},
}


ERRORS = responses(401, 404, 409, 413, 415, 422, 429, 503, 504, model=OpenAIError)

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=ERRORS)


@router.post(
    "/embeddings", response_model=EmbeddingList, openapi_extra=json_body(EmbeddingsRequest, EXAMPLES)
)
async def post_embeddings(request: Request) -> Response:
    """Embed texts, token ids or images."""
    start = time.perf_counter()
    async with services(request).bodies.parsed(request, EmbeddingsRequest) as body:
        return to_response(await embeddings(services(request), body, start, JSON))


@router.get("/models", response_model=Models)
async def list_models(request: Request) -> Response:
    """List the loaded models."""
    loaded = await services(request).status.loaded()
    return json_response({"object": "list", "data": [as_model(model) for model in loaded]})


@router.get("/models/{model:path}", response_model=Model)
async def get_model(request: Request, model: str) -> Response:
    """Return one loaded model."""
    catalog = services(request).catalog
    model_id = await catalog.named(model)
    for found in await services(request).status.loaded():
        if found.model_id == model_id:
            return json_response(as_model(found))
    raise await asyncio.to_thread(catalog.names.not_loaded, model_id)


async def embeddings(services: Services, body: EmbeddingsRequest, _start: float, _media: str) -> Answer:
    """Return the answer to `POST /v1/embeddings`, which is always JSON."""
    with fields.named_as_asked({"input": body.input}, body.__pydantic_extra__):
        form = body.form()
        vectors, tokens = await embed(services, body)
        taken: dict[str, Any] = {"embedding": vectors}
        if form is not PLAIN:
            taken = shaped(form, taken)
    rows: Any = taken.pop("embedding")
    if form.encoding_format == "base64":
        rows = base64_rows(rows)
    answer = {
        # Mistral's clients require an id.
        "id": f"embd-{REQUEST_ID.get()}",
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": body.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        **taken,
    }
    return Answer(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), PLAIN_JSON)


async def embed(services: Services, body: EmbeddingsRequest) -> tuple[Vectors, int]:
    """Return the vectors of the input, float32 [n, D], and its number of tokens (0 for images)."""
    inputs, _ = as_list(body.input)
    if not inputs:
        raise EmptyInput("input: an empty list; send at least one input")
    model_id = await services.catalog.named(body.model)
    normalize = body.normalize is not False
    if body.modality == "image":
        if not isinstance(inputs[0], str):
            raise InvalidInput("input: token ids are no images; send data URIs, URLs or base64")
        return await services.image_embedder.embed(
            model_id, inputs, normalize=normalize, field="input", timeout_ms=body.timeout_ms
        ), 0
    return await services.embedder.embed(
        model_id,
        inputs,
        normalize=normalize,
        options=body.text_options(),
        field="input",
        timeout_ms=body.timeout_ms,
    )


def as_list(given: Any) -> tuple[list[Any], bool]:  # noqa: ANN401 - `Input`
    """Return the inputs as a list, and True if a single one was given: a text, or the token ids of a text."""
    single = isinstance(given, str) or (bool(given) and isinstance(given[0], int))
    return [given] if single else given, single


def as_model(model: LoadedModel) -> dict[str, Any]:
    """Describe a loaded model in OpenAI's format."""
    return {
        "id": model.model_id.id,
        "object": "model",
        "created": model.converted,
        "owned_by": OWNER,
        "kind": model.kind,
    }
