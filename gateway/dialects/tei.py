"""The API of Hugging Face's Text Embeddings Inference, one model at a base URL: `/tei/{model}`.

Source: its OpenAPI, versions 1.2 to 1.8. `{model}` is one word, see `Catalog.named`; it may hold a `/`.
"""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway import forms
from gateway.answers import JSON
from gateway.catalog import TextModel
from gateway.dialects import openai
from gateway.dialects.tei_schemas import (
    EXAMPLE_IDS,
    SIMILARITY_EXAMPLE,
    TEXT_EXAMPLES,
    DecodeRequest,
    EmbedAllRequest,
    EmbedRequest,
    Info,
    OpenAIRequest,
    Options,
    RootRequest,
    SimilarityRequest,
    SimpleToken,
    TEIError,
    TokenizeRequest,
)
from gateway.errors import EmptyInput, TooLarge
from gateway.forms import Vectors
from gateway.inference import Texts
from gateway.openapi import responses
from gateway.routing import json, json_body, json_list, services, written
from gateway.schemas import parse
from gateway.text_options import TextOptions

VERSION = "1.8.0"
"""Of the API that is spoken here."""

router = APIRouter(
    prefix="/tei",
    tags=["Text Embeddings Inference"],
    responses=responses(400, 401, 404, 409, 413, 422, 424, 429, 503, model=TEIError),
)


@router.post(
    "/{model:path}/v1/embeddings",
    response_model=openai.EmbeddingList,
    responses=openai.ERRORS,
    openapi_extra=json_body(OpenAIRequest, {"texts": {"input": ["a diver", "a dog"]}}),
)
async def openai_embeddings(request: Request, model: str) -> Response:
    """As `POST /v1/embeddings`, with the model of the URL."""
    async with services(request).bodies.parsed(request, OpenAIRequest) as body:
        named = body.model_copy(update={"model": model})
        return written(await openai.embeddings(services(request), named, 0.0, JSON))


@router.post(
    "/{model:path}/embed",
    response_model=list[list[float]],
    openapi_extra=json_body(EmbedRequest, TEXT_EXAMPLES),
)
async def embed(request: Request, model: str) -> Response:
    """One vector for each input."""
    return await embedded(request, model, parse(EmbedRequest, await request.body()))


@router.post(
    "/{model:path}/embed_all",
    response_model=list[list[list[float]]],
    openapi_extra=json_body(EmbedAllRequest, TEXT_EXAMPLES),
)
async def embed_all(request: Request, model: str) -> Response:
    """One vector for each token of each input, special tokens included: not pooled, not scaled."""
    body = parse(EmbedAllRequest, await request.body())
    given, single = openai.as_list(body.inputs)
    inputs = several(request, "inputs", given)
    reference = await services(request).catalog.named(model)
    with openai.places("inputs", single=single):
        vectors = await services(request).embedder.embed_tokens(
            reference, inputs, options=body.text_options(), field="inputs"
        )
    return await asyncio.to_thread(json_list, vectors)


@router.post(
    "/{model:path}/similarity",
    response_model=list[float],
    openapi_extra=json_body(SimilarityRequest, {"sentences": SIMILARITY_EXAMPLE}),
)
async def similarity(request: Request, model: str) -> Response:
    """Cosine of each sentence to the source sentence."""
    return await compared(request, model, parse(SimilarityRequest, await request.body()))


@router.post(
    "/{model:path}/tokenize",
    response_model=list[list[SimpleToken]],
    openapi_extra=json_body(TokenizeRequest, {"a text": {"inputs": "a diver"}}),
)
async def tokenize(request: Request, model: str) -> Response:
    """The tokens of each text, none truncated."""
    body = parse(TokenizeRequest, await request.body())
    texts = several(request, "inputs", openai.as_list(body.inputs)[0])
    services(request).embedder.require_lengths(texts, "inputs")
    found = await text_model(request, model)
    return json(await asyncio.to_thread(tokens_of, found, texts, body))


@router.post(
    "/{model:path}/decode",
    response_model=list[str],
    openapi_extra=json_body(DecodeRequest, {"token ids": {"ids": EXAMPLE_IDS}}),
)
async def decode(request: Request, model: str) -> Response:
    """The text of token ids."""
    body = parse(DecodeRequest, await request.body())
    rows, single = openai.as_list(body.ids)
    rows, skip = several(request, "ids", rows), body.skip_special_tokens
    tokenizer = (await text_model(request, model)).tokenizer

    def texts() -> list[str]:
        return [
            tokenizer.decode(ids, skip_special_tokens=skip, field=f"ids.{index}")
            for index, ids in enumerate(rows)
        ]

    with openai.places("ids", single=single):
        return json(await asyncio.to_thread(texts))


@router.get("/{model:path}/info")
async def info(request: Request, model: str) -> Info:
    """What the model is and takes."""
    found = await text_model(request, model)
    return Info(
        model_id=found.reference.id,
        model_sha=found.manifest.source.commit,
        model_dtype="float16" if found.manifest.precision == "fp16" else "float32",
        model_type={"embedding": {"pooling": None}},
        max_input_length=found.tokenizer.limit,
        max_client_batch_size=services(request).embedder.max_inputs,
        auto_truncate=False,
        version=VERSION,
    )


@router.get("/{model:path}/health", response_class=Response)
async def health(request: Request, model: str) -> Response:
    """200 when the model could be asked now."""
    await text_model(request, model)
    return Response()


@router.post(
    "/{model:path}",
    response_model=list[list[float]] | list[float],
    openapi_extra=json_body(RootRequest, {**TEXT_EXAMPLES, "sentences": SIMILARITY_EXAMPLE}),
)
async def root(request: Request, model: str) -> Response:
    """As `/embed`, and as `/similarity` where `inputs` has a source sentence: clients that know no paths."""
    content = await request.body()
    if isinstance(parse(RootRequest, content).inputs, dict):
        return await compared(request, model, parse(SimilarityRequest, content))
    return await embedded(request, model, parse(EmbedRequest, content))


async def embedded(request: Request, model: str, body: EmbedRequest) -> Response:
    """The answer to a body of `/embed`."""
    given, single = openai.as_list(body.inputs)
    inputs = several(request, "inputs", given)
    with openai.places("inputs", single=single):
        vectors = await vectors_of(request, model, inputs, body.text_options(), normalize=body.normalize)
    return json(vectors if body.dimensions is None else forms.cut(vectors, body.dimensions))


async def compared(request: Request, model: str, body: SimilarityRequest) -> Response:
    """The answer to a body of `/similarity`."""
    sentences = several(request, "inputs.sentences", body.inputs.sentences)
    texts = [body.inputs.source_sentence, *sentences]
    options = (body.parameters or Options()).text_options()
    vectors = await vectors_of(request, model, texts, options, normalize=True)
    return json(vectors[1:] @ vectors[0])


async def vectors_of(
    request: Request, model: str, inputs: Texts, options: TextOptions, *, normalize: bool
) -> Vectors:
    """Vectors float32 [n, D]."""
    reference = await services(request).catalog.named(model)
    found = await services(request).embedder.embed(
        reference, inputs, normalize=normalize, options=options, field="inputs"
    )
    return found.vectors


async def text_model(request: Request, model: str) -> TextModel:
    """The model of the URL, which is loaded."""
    reference = await services(request).catalog.named(model)
    return await services(request).embedder.model(reference)


def several(request: Request, field: str, inputs: list[Any]) -> list[Any]:
    """The inputs, as many as a request may carry.

    Raises:
        EmptyInput, TooLarge: they are not.
    """
    if not inputs:
        raise EmptyInput(f"{field}: an empty list; send at least one input")
    if len(inputs) > (most := services(request).embedder.max_inputs):
        raise TooLarge(f"{field}: {len(inputs)} in one request; the limit is {most}")
    return inputs


def tokens_of(model: TextModel, texts: list[str], body: TokenizeRequest) -> list[list[dict[str, Any]]]:
    """The answer to a body of `/tokenize`."""
    manifest, add = model.manifest, body.add_special_tokens
    prompt = TextOptions(body.prompt_name).resolve_prompt(manifest.prompts, manifest.default_prompt_name)
    found = (model.tokenizer.tokens(text, add_special_tokens=add, prompt=prompt) for text in texts)
    return [[token._asdict() for token in tokens] for tokens in found]
