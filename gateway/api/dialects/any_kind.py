"""Loaded models of any kind that takes texts, for the routes that describe a model."""

from fastapi import Request

from gateway.api.dependencies import services
from gateway.errors import WrongKind
from gateway.models.catalog import PairModel, TextModel


async def loaded_model(request: Request, name: str) -> TextModel | PairModel:
    """Return the loaded model of a name, see `Catalog.named`.

    Raises:
        ModelNotFound, ModelConflict, Unavailable: The model is not loaded.
    """
    parts = services(request)
    model_id = await parts.catalog.named(name)
    try:
        return await parts.embedder.model(model_id)
    except WrongKind:
        return await parts.scorer.model(model_id)
