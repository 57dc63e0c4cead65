"""The native routes: each parses the body, calls the module that does the work, and answers."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from gateway.api import embedding, openapi, schemas
from gateway.api.dependencies import ADMIN_ONLY, services
from gateway.api.dialects import ingrain, ingrain_schemas
from gateway.api.embedding_schemas import (
    EmbeddingResponse,
    InferImageRequest,
    InferRequest,
    InferResponse,
    InferTextRequest,
)
from gateway.api.error_responses import error_body, from_triton
from gateway.api.openapi import json_body, responses
from gateway.api.request_body import Body, parse
from gateway.api.responses import Answer, json_response, to_response
from gateway.api.services import Services
from gateway.errors import GatewayError
from gateway.model_id import ModelId
from gateway.models.load_jobs import LoadJob
from triton_models.client.errors import TritonError

NDJSON = "application/x-ndjson"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

router = APIRouter()

INFER = responses(
    401, 404, 409, 413, 415, 422, 429, 503, 504, content=openapi.VECTOR_ANSWER, headers=openapi.VECTOR_HEADERS
)
LOAD = responses(401, 403, 404, 409, 413, 415, 422, 429, 503, 504, 507, content=openapi.NDJSON_ANSWER)
CHANGE = responses(401, 403, 404, 409, 413, 415, 422, 503, 504)
LOOK = responses(401, 503, 504)
METRICS = responses(401, 503, 504, content=openapi.PROMETHEUS_ANSWER)


@router.post(
    "/infer",
    response_model=InferResponse,
    responses=INFER,
    openapi_extra=json_body(InferRequest, openapi.BOTH_EXAMPLES),
)
async def infer(request: Request) -> Response:
    """Embed texts, images or both."""
    return await _embed(request, InferRequest, embedding.infer)


@router.post(
    "/infer_text",
    response_model=EmbeddingResponse,
    responses=INFER,
    openapi_extra=json_body(InferTextRequest, openapi.TEXT_EXAMPLES),
)
async def infer_text(request: Request) -> Response:
    """Embed texts."""
    return await _embed(request, InferTextRequest, embedding.infer_text)


@router.post(
    "/infer_image",
    response_model=EmbeddingResponse,
    responses=INFER,
    openapi_extra=json_body(InferImageRequest, openapi.IMAGE_EXAMPLES),
)
async def infer_image(request: Request) -> Response:
    """Embed images."""
    return await _embed(request, InferImageRequest, embedding.infer_image)


async def _embed(
    request: Request,
    schema: type[Body],
    work: Callable[[Services, Body, float, str], Awaitable[Answer]],
) -> Response:
    start = time.perf_counter()
    async with services(request).bodies.parsed(request, schema) as body:
        return to_response(await work(services(request), body, start, embedding.accepted(request.scope)))


@router.post(
    "/load_sentence_transformer_model",
    response_model=schemas.Message,
    responses=LOAD,
    dependencies=ADMIN_ONLY,
    openapi_extra=json_body(schemas.LoadSentenceTransformer, openapi.LOAD_EXAMPLES),
)
async def load_sentence_transformer_model(request: Request) -> Response:
    """Convert a model if needed, load it and check it.

    With `Accept: application/x-ndjson`, the answer is a stream with one line per step.
    """
    body = parse(schemas.LoadSentenceTransformer, await services(request).bodies.small(request))
    job = services(request).jobs.start(ModelId(body.model_name), body.revision, body.tuning())
    return await load_answer(request, job)


@router.post(
    "/load_clip_model",
    response_model=schemas.Message,
    responses=LOAD,
    dependencies=ADMIN_ONLY,
    openapi_extra=json_body(schemas.LoadClip, openapi.LOAD_CLIP_EXAMPLES),
)
async def load_clip_model(request: Request) -> Response:
    """Convert a CLIP model if needed, load it and check both towers.

    With `Accept: application/x-ndjson`, the answer is a stream with one line per step.
    """
    body = parse(schemas.LoadClip, await services(request).bodies.small(request))
    return await load_answer(request, services(request).jobs.start(body.model_id(), None, body.tuning()))


async def load_answer(request: Request, job: LoadJob) -> Response:
    """Return the result of a load, or a stream of its steps if the caller accepts NDJSON."""
    if NDJSON in request.headers.get("accept", ""):
        return StreamingResponse(progress_lines(job), media_type=NDJSON)
    return json_response({"message": await job.result()})


async def progress_lines(job: LoadJob) -> AsyncIterator[bytes]:
    """Yield one JSON line for each step of a load; the last line is the result or the error."""
    async for step in job.steps():
        yield orjson.dumps(step, option=orjson.OPT_APPEND_NEWLINE)
    try:
        last: dict[str, Any] = {"message": await job.result()}
    except (GatewayError, TritonError) as error:
        status, last = error_body(error if isinstance(error, GatewayError) else from_triton(error))
        last = {**last, "status": status}
    yield orjson.dumps(last, option=orjson.OPT_APPEND_NEWLINE)


@router.post(
    "/unload_model",
    responses=CHANGE,
    dependencies=ADMIN_ONLY,
    openapi_extra=json_body(schemas.ModelReference, openapi.MODEL_EXAMPLES),
)
async def unload_model(request: Request) -> schemas.Message:
    """Unload a model from Triton and keep its files."""
    model_id = await ingrain.reference_in(request)
    return schemas.Message(message=await services(request).lifecycle.unload(model_id))


@router.delete(
    "/delete_model",
    responses=CHANGE,
    dependencies=ADMIN_ONLY,
    openapi_extra=json_body(ingrain_schemas.Named),
)
@router.post(
    "/delete_model",
    responses=CHANGE,
    dependencies=ADMIN_ONLY,
    openapi_extra=json_body(schemas.ModelReference, openapi.MODEL_EXAMPLES),
)
async def delete_model(request: Request) -> schemas.Message:
    """Unload a model and remove its files."""
    model_id = await ingrain.reference_in(request)
    return schemas.Message(message=await services(request).lifecycle.delete(model_id))


@router.get("/loaded_models", responses=LOOK)
async def loaded_models(request: Request) -> schemas.LoadedModels | ingrain_schemas.LoadedModelObjects:
    """List the models that are ready, by their names in Triton; ingrain's client gets objects."""
    if ingrain.asks(request):
        return await ingrain.loaded_models(request)
    return schemas.LoadedModels(models=await services(request).status.loaded_models())


@router.get("/repository_models", responses=LOOK)
async def repository_models(request: Request) -> schemas.RepositoryModels:
    """List every model of the repository with its state."""
    return schemas.RepositoryModels(models=await services(request).status.repository_models())


@router.get("/health", responses=responses(503))
async def health(request: Request) -> dict[str, str | dict[str, str]]:
    """Answer 200 if the server can serve inference now; `not_serving` lists models that it cannot serve."""
    problems = await services(request).status.check_health()
    if ingrain.asks(request):
        return {"message": "ok"}
    return {"status": "ok", "not_serving": problems} if problems else {"status": "ok"}


@router.get("/health/live")
async def live() -> dict[str, str]:
    """Answer 200 as long as the process responds."""
    return {"status": "ok"}


@router.get("/metrics", response_model=schemas.Metrics, responses=METRICS)
async def metrics(request: Request) -> Response:
    """Return Triton's statistics as JSON, or Prometheus metrics if `Accept` asks for text."""
    accept = request.headers.get("accept", "")
    if "text/plain" in accept or "application/openmetrics-text" in accept:
        return Response(await services(request).prometheus.text(), media_type=PROMETHEUS)
    if ingrain.asks(request):
        return json_response(await ingrain.metrics(request))
    return json_response({"model_stats": await services(request).status.statistics()})


@router.get("/metrics/prometheus", response_class=PlainTextResponse, responses=LOOK)
async def prometheus_metrics(request: Request) -> Response:
    """Return Prometheus metrics as text, whatever `Accept` asks for."""
    return Response(await services(request).prometheus.text(), media_type=PROMETHEUS)
