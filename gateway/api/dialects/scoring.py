"""The work that all routes for pairs of texts share: the model, its logits, and the scores made of them."""

from fastapi import Request

from gateway.api.dependencies import services
from gateway.api.dialects.rerank_schemas import PairOptions
from gateway.errors import WrongKind
from gateway.inference.pairs import Pairs, Scored, activated
from gateway.inference.vectors import Vectors
from gateway.model_id import ModelId
from triton_models.contract.manifest import Activation


async def model_id_of(request: Request, named: str | None, body: PairOptions) -> ModelId:
    """Return the model of the URL or of the body, else the only one that is loaded."""
    name = named or body.model
    if name is None:
        return await services(request).scorer.only_model()
    return await services(request).catalog.named(name)


async def require_one_label(request: Request, model_id: ModelId) -> None:
    """Refuse a model with several labels, of which none is the relevance.

    Raises:
        WrongKind: The model has several.
    """
    model = await services(request).scorer.model(model_id)
    if (labels := len(model.scoring.labels)) > 1:
        raise WrongKind(
            f"model {model.model_id} has {labels} labels and no single score; send pairs to POST /predict"
        )


async def score_pairs(request: Request, model_id: ModelId, body: PairOptions, pairs: Pairs) -> Scored:
    """Return the logits of pairs, scored as the body asks."""
    return await services(request).scorer.score(
        model_id,
        pairs,
        options=body.text_options(),
        timeout_ms=body.timeout_ms,
    )


def scores_of(
    scored: Scored, body: PairOptions, activation: Activation = "sigmoid"
) -> tuple[Vectors, Activation]:
    """Return the score of each pair, float32 [n], and the activation that was applied."""
    used: Activation = "identity" if body.wants_logits else activation
    return activated(scored.logits[:, 0], used), used


def usage_of(scored: Scored) -> dict[str, int]:
    """Return the number of tokens in OpenAI's form."""
    return {"prompt_tokens": scored.tokens, "total_tokens": scored.tokens}
