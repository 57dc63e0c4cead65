"""Admits requests to ready models only: models whose load into the current Triton ended with its check."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

from gateway.errors import ModelConflict, Unavailable
from gateway.health.monitor import Monitor
from gateway.model_id import ModelId
from gateway.models.catalog import ImageModel, Models, PairModel, TextModel
from gateway.models.names import Names
from triton_models.client.errors import ModelNotReady
from triton_models.repository.repository import Repository
from triton_models.server.triton import Triton

Model = TypeVar("Model", TextModel, ImageModel, PairModel)
Found = TypeVar("Found")


ANSWERED: ContextVar[set[str | None] | None] = ContextVar("ANSWERED", default=None)
"""The pairs of the CLIP towers that have answered; set by a caller that needs both towers of one pair."""


@dataclass(eq=False)
class ReadinessGate:
    """Lets requests use ready models; a model is looked up once per version and Triton, not per request."""

    repository: Repository
    triton: Triton
    monitor: Monitor
    names: Names
    _known: dict[str, tuple[int, int]] = field(default_factory=dict, init=False)
    _used: set[str] = field(default_factory=set, init=False)

    def take_used(self) -> set[str]:
        """Return the models, by name in Triton, that have answered since the last call."""
        used, self._used = self._used, set()
        return used

    async def run_on_ready(
        self, models: Models[Model], model_id: ModelId, embed: Callable[[Model], Awaitable[Found]]
    ) -> tuple[Model, Found]:
        """Run `embed` on the loaded model and return the model with the result.

        If Triton no longer has the known version, but the repository has another, `embed` is run again.

        Args:
            models: The kind of model.
            model_id: The model.
            embed: Run on the model; it may raise ModelNotReady.

        Raises:
            ModelNotFound, ModelConflict, Unavailable: The model is not loaded, or does not answer.
        """
        model = await models.get(model_id)
        while True:
            await self.require_ready(model)
            try:
                answer = await embed(model)
            except ModelNotReady:
                self._known.pop(model.triton_name, None)
            else:
                self._used.add(model.triton_name)
                if (answered := ANSWERED.get()) is not None:
                    answered.add(model.manifest.pair)
                return model, answer
            before, model = model, await models.refresh(model.model_id)
            await self.require_ready(model)
            if model.state == before.state:
                raise Unavailable(f"model {model_id} is being loaded; retry in a moment")

    async def require_ready(self, model: TextModel | ImageModel | PairModel) -> None:
        """Return if the load of this version has ended with its check; raise otherwise.

        Triton answers as soon as it has a model, which is before the check has compared its vectors.

        Raises:
            ModelConflict: The model is being unloaded.
            ModelNotFound: The model is not loaded.
            Unavailable: The model is being loaded, or is known not to answer.
        """
        if self.is_ready(model):
            return
        # The key names the current Triton; another one may take its place while the state is read.
        model_id, triton_name, key = model.model_id, model.triton_name, self._key(model)
        state = await asyncio.to_thread(self.repository.state, triton_name)
        if state.activity in ("unloading", "deleting"):
            raise ModelConflict(f"model {model_id} is being unloaded; load it again to use it")
        if state.activity == "loading":
            raise Unavailable(f"model {model_id} is being loaded; retry in a moment")
        if not state.wanted:
            raise await asyncio.to_thread(self.names.not_loaded, model_id)
        self._known[triton_name] = key

    def is_ready(self, model: TextModel | ImageModel | PairModel) -> bool:
        """Return whether the load of this version is known to have ended with its check.

        Raises:
            Unavailable: The model is known not to answer.
        """
        self.monitor.require(model.triton_name)
        return self._known.get(model.triton_name) == self._key(model)

    def _key(self, model: TextModel | ImageModel | PairModel) -> tuple[int, int]:
        return model.version, self.triton.generation
