"""Reranking and scores of pairs, by cross-encoders, in the forms of every API that clients speak.

`/rerank`, `/v1/rerank` and `/v2/rerank` are one route. The body tells whose form it has: `model_name` is this
server's own, `texts` is TEI's, `documents` with `property` is Weaviate's, and `documents` alone that of
Cohere, Jina, vLLM and infinity. Scores are sigmoids of logits, from 0 to 1, except in our own form.

Sources: TEI 1.9, Cohere's and Jina's APIs, vLLM's pooling server, infinity, Weaviate's reranker-transformers.
"""

import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api import fields
from gateway.api.base_schemas import names
from gateway.api.dependencies import services
from gateway.api.dialects.rerank_schemas import (
    RERANK_EXAMPLES,
    Rank,
    Ranking,
    RerankRequest,
    TextObject,
    WeaviateRanking,
)
from gateway.api.dialects.scoring import model_id_of, require_one_label, score_pairs, scores_of, usage_of
from gateway.api.error_bodies import DIALECT, Dialect
from gateway.api.fields import named_as_asked
from gateway.api.openapi import json_body, responses
from gateway.api.responses import json_response
from gateway.errors import EmptyInput, InvalidInput
from gateway.inference.pairs import Pairs, Scored
from triton_models.client.requests import REQUEST_ID

ERRORS = (400, 401, 404, 409, 413, 415, 422, 424, 429, 503, 504)
RANKINGS = Ranking | list[Rank] | WeaviateRanking
BODY = json_body(RerankRequest, RERANK_EXAMPLES)

router = APIRouter(tags=["Reranking"])


@router.post("/rerank", response_model=RANKINGS, responses=responses(*ERRORS), openapi_extra=BODY)
@router.post("/v1/rerank", response_model=RANKINGS, responses=responses(*ERRORS), openapi_extra=BODY)
@router.post("/v2/rerank", response_model=RANKINGS, responses=responses(*ERRORS), openapi_extra=BODY)
@router.post(
    "/tei/{model:path}/rerank", response_model=RANKINGS, responses=responses(*ERRORS), openapi_extra=BODY
)
@router.post(
    "/weaviate/{model:path}/rerank", response_model=RANKINGS, responses=responses(*ERRORS), openapi_extra=BODY
)
async def rerank(request: Request, model: str | None = None) -> Response:
    """Order documents by their relevance to a query."""
    start = time.perf_counter()
    async with services(request).bodies.parsed(request, RerankRequest) as body:
        dialect = dialect_of(body)
        request.scope[DIALECT] = dialect
        if dialect == "native":
            _refuse_unknown(body)
        query, documents = _text(body.query), [_text(one) for one in body.texts or body.documents or ()]
        field = "documents" if body.texts is None else "texts"
        if not documents:
            raise EmptyInput(f"{field}: an empty list; send at least one document")
        model_id = await model_id_of(request, model or body.model_name, body)
        await require_one_label(request, model_id)
        with named_as_asked({"query": query}):
            scored = await score_pairs(request, model_id, body, Pairs([query], documents, "query", field))
        if dialect == "weaviate":
            return json_response(_weaviate(query, documents, body, scored))
        # Equal sigmoids may be of different logits, which are too large for float32.
        order = np.argsort(-scored.logits[:, 0], kind="stable")[: body.top_n or None]
        if dialect == "tei":
            return json_response(_tei(order, documents, body, scored))
        return json_response(_ranking(request, start, order, documents, body, scored))


def dialect_of(body: RerankRequest) -> Dialect:
    """Return whose form a body has.

    Raises:
        InvalidInput: It has the documents of none, or of two.
    """
    if (body.texts is None) == (body.documents is None):
        raise InvalidInput("documents: send documents, or texts in TEI's form")
    if body.model_name is not None:
        return "native"
    if body.texts is not None:
        return "tei"
    return "cohere" if body.property is None else "weaviate"


def _refuse_unknown(body: RerankRequest) -> None:
    """Refuse fields that our own form does not have.

    Raises:
        InvalidInput: There is such a field.
    """
    for name in body.__pydantic_extra__ or ():
        raise fields.unknown(name, names(RerankRequest))
    if body.texts is not None:
        raise InvalidInput("texts: send documents beside model_name")


def _text(given: str | TextObject) -> str:
    return given if isinstance(given, str) else given.text


def _tei(
    order: Any,  # noqa: ANN401 - an array of indices
    documents: list[str],
    body: RerankRequest,
    scored: Scored,
) -> list[dict[str, Any]]:
    scores, _ = scores_of(scored, body)
    return [
        {
            "index": int(index),
            "score": scores[index],
            **({"text": documents[index]} if body.return_text else {}),
        }
        for index in order
    ]


def _weaviate(query: str, documents: list[str], body: RerankRequest, scored: Scored) -> dict[str, Any]:
    scores, _ = scores_of(scored, body)
    rows = [{"document": text, "score": one} for text, one in zip(documents, scores, strict=True)]
    return {"query": query, "property": body.property, "scores": rows}


def _ranking(
    request: Request,
    start: float,
    order: Any,  # noqa: ANN401 - an array of indices
    documents: list[str],
    body: RerankRequest,
    scored: Scored,
) -> dict[str, Any]:
    """Return the answer in the form of Cohere, Jina, vLLM and infinity, or in our own."""
    native = body.model_name is not None
    scores, activation = scores_of(scored, body, scored.model.scoring.activation if native else "sigmoid")
    shown = body.return_documents
    if shown is None:
        # Jina and vLLM return them; Cohere, whose path this is, does not.
        shown = not native and not request.url.path.startswith("/v2/")
    results = [
        {
            "index": int(index),
            "relevance_score": scores[index],
            **({"document": {"text": documents[index]}} if shown else {}),
        }
        for index in order
    ]
    answer: dict[str, Any] = {
        "results": results,
        "model": scored.model.model_id.id,
        "usage": usage_of(scored),
        "activation": activation,
    }
    if native:
        return {**answer, "processingTimeMs": (time.perf_counter() - start) * 1000}
    version = "2" if request.url.path.startswith("/v2/") else "1"
    meta = {"api_version": {"version": version}, "billed_units": {"search_units": 1}}
    about = {"id": f"rerank-{REQUEST_ID.get()}", "object": "rerank", "created": int(time.time())}
    return {**about, **answer, "meta": meta}
