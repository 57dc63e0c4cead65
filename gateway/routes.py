"""The routes: parse, call, answer. What they do is in the modules they call."""

import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from gateway import hot, schemas
from gateway.errors import GatewayError, error_body, from_triton
from gateway.jobs import LoadJob
from gateway.references import Reference
from gateway.services import Services
from triton_models.errors import TritonError

NDJSON = "application/x-ndjson"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

router = APIRouter(responses={"4XX": {"model": schemas.ErrorDetail}, "5XX": {"model": schemas.ErrorDetail}})


def json_body(schema: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI's entry for a body that the route reads itself, without FastAPI's second model layer."""
    content = {"schema": schema.model_json_schema(ref_template="#/components/schemas/{model}")}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


@router.post("/infer", response_model=schemas.InferResponse, openapi_extra=json_body(schemas.InferRequest))
async def infer(request: Request) -> Response:
    """Embed texts, images or both."""
    start = time.perf_counter()
    async with services(request).bodies.parsed(request, schemas.InferRequest) as body:
        return written(await hot.infer(services(request), body, start))


@router.post(
    "/infer_text", response_model=schemas.EmbeddingResponse, openapi_extra=json_body(schemas.InferTextRequest)
)
async def infer_text(request: Request) -> Response:
    """Embed texts, one modality."""
    start = time.perf_counter()
    body = schemas.parse(schemas.InferTextRequest, await request.body())
    return written(await hot.infer_text(services(request), body, start))


@router.post(
    "/infer_image",
    response_model=schemas.EmbeddingResponse,
    openapi_extra=json_body(schemas.InferImageRequest),
)
async def infer_image(request: Request) -> Response:
    """Embed images, one modality."""
    start = time.perf_counter()
    async with services(request).bodies.parsed(request, schemas.InferImageRequest) as body:
        return written(await hot.infer_image(services(request), body, start))


@router.post(
    "/load_sentence_transformer_model",
    response_model=schemas.Message,
    openapi_extra=json_body(schemas.LoadSentenceTransformer),
)
async def load_sentence_transformer_model(request: Request) -> Response:
    """Convert where need be, load, check; one line a step for `Accept: application/x-ndjson`."""
    body = schemas.parse(schemas.LoadSentenceTransformer, await request.body())
    job = services(request).jobs.start(Reference(body.model_name), body.revision, body.tuning())
    return await load_answer(request, job)


@router.post("/load_clip_model", response_model=schemas.Message, openapi_extra=json_body(schemas.LoadClip))
async def load_clip_model(request: Request) -> Response:
    """Convert where need be, load, check both towers; one line a step for `Accept: application/x-ndjson`."""
    body = schemas.parse(schemas.LoadClip, await request.body())
    return await load_answer(request, services(request).jobs.start(body.reference(), None, body.tuning()))


async def load_answer(request: Request, job: LoadJob) -> Response:
    """The end of a load, or its steps where the caller accepts lines."""
    if NDJSON in request.headers.get("accept", ""):
        return StreamingResponse(progress_lines(job), media_type=NDJSON)
    return json({"message": await job.result()})


async def progress_lines(job: LoadJob) -> AsyncIterator[bytes]:
    """One line a step; the last is the answer or the error."""
    async for step in job.steps():
        yield orjson.dumps(step, option=orjson.OPT_APPEND_NEWLINE)
    try:
        last: dict[str, Any] = {"message": await job.result()}
    except (GatewayError, TritonError) as error:
        status, last = error_body(error if isinstance(error, GatewayError) else from_triton(error))
        last = {**last, "status": status}
    yield orjson.dumps(last, option=orjson.OPT_APPEND_NEWLINE)


@router.post("/unload_model", openapi_extra=json_body(schemas.ModelReference))
async def unload_model(request: Request) -> schemas.Message:
    """Take a model out of Triton; its files stay."""
    body = schemas.parse(schemas.ModelReference, await request.body())
    return schemas.Message(message=await services(request).lifecycle.unload(body.reference()))


@router.post("/delete_model", openapi_extra=json_body(schemas.ModelReference))
async def delete_model(request: Request) -> schemas.Message:
    """Unload a model and remove its files."""
    body = schemas.parse(schemas.ModelReference, await request.body())
    return schemas.Message(message=await services(request).lifecycle.delete(body.reference()))


@router.get("/loaded_models")
async def loaded_models(request: Request) -> schemas.LoadedModels:
    """Served names of the models that are ready."""
    return schemas.LoadedModels(models=await services(request).status.loaded_models())


@router.get("/repository_models")
async def repository_models(request: Request) -> schemas.RepositoryModels:
    """Every model of the repository with its state."""
    return schemas.RepositoryModels(models=await services(request).status.repository_models())


@router.get("/health")
async def health(request: Request) -> dict[str, str]:
    """200 when an inference could be served now."""
    await services(request).status.check_health()
    return {"status": "ok"}


@router.get("/health/live")
async def live() -> dict[str, str]:
    """200 while the process answers."""
    return {"status": "ok"}


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Triton's statistics as JSON; Prometheus' text where `Accept` asks for it."""
    accept = request.headers.get("accept", "")
    if "text/plain" in accept or "application/openmetrics-text" in accept:
        return Response(await services(request).status.prometheus(), media_type=PROMETHEUS)
    return json({"model_stats": await services(request).status.statistics()})


def services(request: Request) -> Services:
    """What the application was built of."""
    found: Services = request.app.state.services
    return found


def json(content: dict[str, Any]) -> Response:
    """A JSON answer."""
    return written(orjson.dumps(content))


def written(content: bytes) -> Response:
    """An answer of JSON that is already written."""
    return Response(content, media_type="application/json")
