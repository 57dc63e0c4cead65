"""The API of Hugging Face's Text Embeddings Inference; the base URL `/tei/{model}` selects the model.

Source: its OpenAPI, versions 1.2 to 1.8. `{model}` is one word, see `Catalog.named`; it may contain a `/`.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.dependencies import services
from gateway.api.dialects import openai
from gateway.api.dialects.any_kind import loaded_model
from gateway.api.dialects.openai_schemas import EmbeddingList
from gateway.api.dialects.tei_schemas import (
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
    SimilarityInput,
    SimilarityRequest,
    SimpleToken,
    TEIError,
    TokenizeRequest,
)
from gateway.api.fields import named_as_asked
from gateway.api.openapi import json_body, responses
from gateway.api.responses import JSON, json_list, json_response, to_response
from gateway.errors import EmptyInput, InvalidInput, TooLarge, Unsupported
from gateway.inference.text import Texts
from gateway.inference.vectors import Vectors, cut
from gateway.models.catalog import PairModel, TextModel
from gateway.text.prompts import TextOptions

VERSION = "1.8.0"
"""The version of TEI's API that these routes implement."""

_PLACE = re.compile(r"^inputs\.(\d+)\b")

router = APIRouter(
    prefix="/tei",
    tags=["Text Embeddings Inference"],
    responses=responses(400, 401, 404, 409, 413, 415, 422, 424, 429, 503, model=TEIError),
)


@router.post(
    "/{model:path}/v1/embeddings",
    response_model=EmbeddingList,
    responses=openai.ERRORS,
    openapi_extra=json_body(OpenAIRequest, {"texts": {"input": ["a diver", "a dog"]}}),
)
async def openai_embeddings(request: Request, model: str) -> Response:
    """Embed texts as `POST /v1/embeddings` does, with the model of the URL."""
    async with services(request).bodies.parsed(request, OpenAIRequest) as body:
        named = body.model_copy(update={"model": model})
        return to_response(await openai.embeddings(services(request), named, 0.0, JSON))


@router.post(
    "/{model:path}/embed",
    response_model=list[list[float]],
    openapi_extra=json_body(EmbedRequest, TEXT_EXAMPLES),
)
async def embed(request: Request, model: str) -> Response:
    """Return one vector for each input."""
    async with services(request).bodies.parsed(request, EmbedRequest) as body:
        return await embedded(request, model, body)


@router.post(
    "/{model:path}/embed_all",
    response_model=list[list[list[float]]],
    openapi_extra=json_body(EmbedAllRequest, TEXT_EXAMPLES),
)
async def embed_all(request: Request, model: str) -> Response:
    """Return one vector for each token of each input, special tokens included, without pooling or scaling."""
    async with services(request).bodies.parsed(request, EmbedAllRequest) as body:
        inputs = several(request, "inputs", body.inputs)
        model_id = await services(request).catalog.named(model)
        with named_as_asked({"inputs": body.inputs}):
            vectors = await services(request).embedder.embed_tokens(
                model_id, inputs, options=body.text_options(), field="inputs"
            )
    return await asyncio.to_thread(json_list, vectors)


@router.post(
    "/{model:path}/similarity",
    response_model=list[float],
    openapi_extra=json_body(SimilarityRequest, {"sentences": SIMILARITY_EXAMPLE}),
)
async def similarity(request: Request, model: str) -> Response:
    """Return the cosine similarity of each sentence to the source sentence."""
    async with services(request).bodies.parsed(request, SimilarityRequest) as body:
        return await compared(request, model, body.inputs, body.parameters)


@router.post(
    "/{model:path}/tokenize",
    response_model=list[list[SimpleToken]],
    openapi_extra=json_body(TokenizeRequest, {"a text": {"inputs": "a diver"}}),
)
async def tokenize(request: Request, model: str) -> Response:
    """Return the tokens of each text, without truncation."""
    async with services(request).bodies.parsed(request, TokenizeRequest) as body:
        texts = several(request, "inputs", body.inputs)
        embedder = services(request).embedder
        with named_as_asked({"inputs": body.inputs}):
            embedder.require_lengths(texts, "inputs")
            found = await text_model(request, model)
            return json_response(await embedder.in_threads(tokens_of(found, texts, body)))


@router.post(
    "/{model:path}/decode",
    response_model=list[str],
    openapi_extra=json_body(DecodeRequest, {"token ids": {"ids": EXAMPLE_IDS}}),
)
async def decode(request: Request, model: str) -> Response:
    """Return the text of token ids."""
    async with services(request).bodies.parsed(request, DecodeRequest) as body:
        rows, skip = several(request, "ids", body.ids), body.skip_special_tokens is not False
        tokenizer = (await text_model(request, model)).tokenizer

        work = (
            partial(tokenizer.decode, ids, skip_special_tokens=skip, field=f"ids.{index}")
            for index, ids in enumerate(rows)
        )
        with named_as_asked({"ids": body.ids}):
            return json_response(await services(request).embedder.in_threads(work))


@router.get("/{model:path}/info")
async def info(request: Request, model: str) -> Info:
    """Describe the model and its limits."""
    found = await loaded_model(request, model)
    embedder = services(request).embedder
    longest = found.tokenizer.limit or embedder.max_characters
    return Info(
        model_id=found.model_id.id,
        model_sha=found.manifest.source.commit,
        model_dtype="float16" if found.manifest.precision == "fp16" else "float32",
        model_type=model_type(found),
        max_concurrent_requests=embedder.max_queued_inputs,
        max_input_length=longest,
        max_batch_tokens=found.max_rows * longest,
        max_batch_requests=found.max_rows,
        max_client_batch_size=embedder.max_inputs,
        auto_truncate=isinstance(found, PairModel),
        tokenization_workers=1,
        version=VERSION,
        sha=None,
        docker_label=None,
    )


@router.get("/{model:path}/health", response_class=Response)
async def health(request: Request, model: str) -> Response:
    """Answer 200 if the model can serve requests now."""
    await loaded_model(request, model)
    return Response()


@router.post("/{model:path}/embed_sparse", include_in_schema=False)
async def embed_sparse(request: Request, model: str) -> None:
    """Refuse the route for a kind of model that this server does not have, with TEI's message.

    Raises:
        Unsupported: always, if the model is loaded.
    """
    await loaded_model(request, model)
    raise Unsupported("model is not an embedding model with Splade pooling")


@router.post(
    "/{model:path}",
    response_model=list[list[float]] | list[float],
    openapi_extra=json_body(RootRequest, {**TEXT_EXAMPLES, "sentences": SIMILARITY_EXAMPLE}),
)
async def root(request: Request, model: str) -> Response:
    """Embed, or compare if `inputs` has a source sentence; for clients that know only the base URL."""
    async with services(request).bodies.parsed(request, RootRequest) as body:
        if isinstance(body.inputs, dict):
            raise InvalidInput("inputs: an object must have source_sentence, a text, and sentences, texts")
        if not isinstance(body.inputs, SimilarityInput):
            if body.parameters is not None and body.parameters.model_fields_set:
                raise InvalidInput("parameters: only for sentences; put its fields beside inputs")
            return await embedded(request, model, body)
        for name in sorted(EmbedRequest.model_fields.keys() & body.model_fields_set - {"inputs"}):
            if getattr(body, name) is not None:
                raise InvalidInput(f"{name}: not beside sentences; their options go into parameters")
        return await compared(request, model, body.inputs, body.parameters)


async def embedded(request: Request, model: str, body: EmbedRequest) -> Response:
    """Return the answer to a body of `/embed`."""
    inputs = several(request, "inputs", body.inputs)
    with named_as_asked({"inputs": body.inputs}):
        normalize = body.normalize is not False
        vectors = await vectors_of(request, model, inputs, body.text_options(), normalize=normalize)
    return json_response(vectors if body.dimensions is None else cut(vectors, body.dimensions))


async def compared(
    request: Request, model: str, inputs: SimilarityInput, parameters: Options | None
) -> Response:
    """Return the answer to a body of `/similarity`."""
    sentences = several(request, "inputs.sentences", inputs.sentences)
    texts = [inputs.source_sentence, *sentences]
    options = (parameters or Options()).text_options()
    try:
        vectors = await vectors_of(request, model, texts, options, normalize=True)
    except (InvalidInput, TooLarge) as error:
        error.args = (_PLACE.sub(_place_in_similarity, str(error)),)
        raise
    return json_response(vectors[1:] @ vectors[0])


def _place_in_similarity(match: re.Match[str]) -> str:
    index = int(match[1])
    return "inputs.source_sentence" if index == 0 else f"inputs.sentences.{index - 1}"


async def vectors_of(
    request: Request, model: str, inputs: Texts, options: TextOptions, *, normalize: bool
) -> Vectors:
    """Return the vectors of the inputs, float32 [n, D]."""
    model_id = await services(request).catalog.named(model)
    found = await services(request).embedder.embed(
        model_id, inputs, normalize=normalize, options=options, field="inputs"
    )
    return found.vectors


def model_type(model: TextModel | PairModel) -> dict[str, Any]:
    """Return the `model_type` of `/info`: a cross-encoder with one label is a reranker."""
    if isinstance(model, TextModel):
        return {"embedding": {"pooling": "model"}}
    labels = model.scoring.labels
    ids = {
        "id2label": dict(enumerate(labels)),
        "label2id": {name: place for place, name in enumerate(labels)},
    }
    return {"reranker" if len(labels) == 1 else "classifier": ids}


async def text_model(request: Request, model: str) -> TextModel:
    """Return the model of the URL; it must be loaded."""
    model_id = await services(request).catalog.named(model)
    return await services(request).embedder.model(model_id)


def several(request: Request, field: str, given: Any) -> list[Any]:  # noqa: ANN401 - one input or several
    """Return the inputs as a list, after a check of their number.

    Raises:
        EmptyInput: the request has no input.
        TooLarge: the request has more inputs than it may carry.
    """
    inputs, _ = openai.as_list(given)
    if not inputs:
        raise EmptyInput(f"{field}: an empty list; send at least one input")
    if len(inputs) > (most := services(request).embedder.max_inputs):
        raise TooLarge(f"{field}: {len(inputs)} in one request; the limit is {most}")
    return inputs


def tokens_of(
    model: TextModel, texts: list[str], body: TokenizeRequest
) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Return an iterator of calls that each tokenize one text of a body of `/tokenize`."""
    manifest, add = model.manifest, body.add_special_tokens is not False
    prompt = TextOptions(body.prompt_name).resolve_prompt(manifest.prompts, manifest.default_prompt_name)

    def tokens(index: int) -> list[dict[str, Any]]:
        found = model.tokenizer.tokens(
            texts[index], add_special_tokens=add, prompt=prompt, field="inputs", index=index
        )
        return [token._asdict() for token in found]

    return (partial(tokens, index) for index in range(len(texts)))
