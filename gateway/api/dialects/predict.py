"""Scores of single pairs: TEI's `/predict`, with all labels, and vLLM's `/score`.

Sources: TEI 1.9, vLLM's pooling server.
"""

import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.dependencies import services
from gateway.api.dialects.openai_schemas import OpenAIError
from gateway.api.dialects.rerank_schemas import (
    PREDICT_EXAMPLES,
    SCORE_EXAMPLES,
    Prediction,
    PredictRequest,
    ScoreRequest,
    Scores,
)
from gateway.api.dialects.scoring import model_id_of, require_one_label, score_pairs, scores_of, usage_of
from gateway.api.dialects.tei_schemas import TEIError
from gateway.api.openapi import json_body, responses
from gateway.api.responses import json_response
from gateway.errors import EmptyInput, InvalidInput
from gateway.inference.pairs import Pairs, activated
from gateway.inference.vectors import Vectors
from triton_models.client.requests import REQUEST_ID

ERRORS = (400, 401, 404, 409, 413, 415, 422, 424, 429, 503, 504)
SIDES = (("text_1", "text_2"), ("data_1", "data_2"), ("queries", "documents"), ("queries", "items"))

router = APIRouter(tags=["Reranking"])


@router.post(
    "/predict",
    response_model=list[Prediction] | list[list[Prediction]],
    responses=responses(*ERRORS, model=TEIError),
    openapi_extra=json_body(PredictRequest, PREDICT_EXAMPLES),
)
@router.post(
    "/tei/{model:path}/predict",
    response_model=list[Prediction] | list[list[Prediction]],
    responses=responses(*ERRORS, model=TEIError),
    openapi_extra=json_body(PredictRequest, PREDICT_EXAMPLES),
)
async def predict(request: Request, model: str | None = None) -> Response:
    """Return the scores of a pair's labels, best first: sigmoid of one label, softmax of several."""
    async with services(request).bodies.parsed(request, PredictRequest) as body:
        single = bool(body.inputs) and isinstance(body.inputs[0], str)
        pairs: Any = [body.inputs] if single else body.inputs
        if not pairs:
            raise EmptyInput("inputs: an empty list; send a pair of texts")
        for index, pair in enumerate(pairs):
            if len(pair) != 2:
                where = "inputs" if single else f"inputs.{index}"
                raise InvalidInput(f"{where}: {len(pair)} texts; a cross-encoder takes a pair, two texts")
        firsts, seconds = ([pair[side] for pair in pairs] for side in (0, 1))
        model_id = await model_id_of(request, model, body)
        scored = await score_pairs(request, model_id, body, Pairs(firsts, seconds, "inputs", "inputs"))
    labels, found = scored.model.scoring.labels, _probabilities(scored.logits, body)
    rows = [
        [{"score": row[place], "label": labels[place]} for place in np.argsort(-row, kind="stable")]
        for row in found
    ]
    return json_response(rows[0] if single else rows)


@router.post(
    "/score",
    response_model=Scores,
    responses=responses(*ERRORS, model=OpenAIError),
    openapi_extra=json_body(ScoreRequest, SCORE_EXAMPLES),
)
@router.post(
    "/v1/score",
    response_model=Scores,
    responses=responses(*ERRORS, model=OpenAIError),
    openapi_extra=json_body(ScoreRequest, SCORE_EXAMPLES),
)
async def score(request: Request) -> Response:
    """Return the score of each pair: one text with each of several, or two lists of equal length."""
    async with services(request).bodies.parsed(request, ScoreRequest) as body:
        pairs = _sides(body)
        model_id = await model_id_of(request, None, body)
        await require_one_label(request, model_id)
        scored = await score_pairs(request, model_id, body, pairs)
    scores, activation = scores_of(scored, body)
    data = [{"index": index, "object": "score", "score": one} for index, one in enumerate(scores)]
    return json_response(
        {
            "id": f"score-{REQUEST_ID.get()}",
            "object": "list",
            "created": int(time.time()),
            "model": scored.model.model_id.id,
            "data": data,
            "usage": usage_of(scored),
            "activation": activation,
        }
    )


def _probabilities(logits: Vectors, body: PredictRequest) -> Vectors:
    """Return the scores of all labels as TEI gives them, float32 [n, labels]."""
    if body.wants_logits or logits.shape[1] == 1:
        return activated(logits, "identity" if body.wants_logits else "sigmoid")
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _sides(body: ScoreRequest) -> Pairs:
    """Return the pairs of a body of `/score`.

    Raises:
        InvalidInput: The two sides are not both there, or do not fit together.
    """
    given = [names for names in SIDES if all(getattr(body, name) is not None for name in names)]
    if len(given) != 1:
        raise InvalidInput("text_1: send text_1 and text_2, data_1 and data_2, or queries and documents")
    (first, second) = given[0]
    sides = [getattr(body, name) for name in given[0]]
    firsts, seconds = ([side] if isinstance(side, str) else side for side in sides)
    if not firsts or not seconds:
        raise EmptyInput(f"{first if not firsts else second}: an empty list; send at least one text")
    if len(firsts) not in (1, len(seconds)):
        raise InvalidInput(
            f"{first}: {len(firsts)} texts beside {len(seconds)}; send one, or as many as in {second}"
        )
    return Pairs(firsts, seconds, first, second)
