"""Which models may be asked: those whose load ended with its check, in the Triton of this moment."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TypeVar

from gateway.errors import ModelConflict, Unavailable
from gateway.health.monitor import Monitor
from gateway.model_id import Reference
from gateway.models.catalog import ImageModel, Models, TextModel, not_loaded
from triton_models.client.errors import ModelNotReady
from triton_models.repository.repository import Repository
from triton_models.server.supervisor import Triton

Model = TypeVar("Model", TextModel, ImageModel)
Found = TypeVar("Found")


ANSWERED: ContextVar[set[str | None] | None] = ContextVar("ANSWERED", default=None)
"""Set by who asks both towers of a CLIP model: the pairs that those belong to which have answered."""


class Verified:
    """Looked up once for a version and a Triton, so that it costs a request nothing."""

    def __init__(self, repository: Repository, triton: Triton, monitor: Monitor) -> None:
        self._repository = repository
        self._triton = triton
        self._monitor = monitor
        self._known: dict[str, tuple[int, int]] = {}
        self._used: set[str] = set()

    def take_used(self) -> set[str]:
        """The models, by served name, that have answered since this was last asked."""
        used, self._used = self._used, set()
        return used

    async def answer(
        self, models: Models[Model], reference: Reference, embed: Callable[[Model], Awaitable[Found]]
    ) -> tuple[Model, Found]:
        """What `embed` gives of the model that is loaded, which is told too.

        Once more, where Triton no longer has what was known but the repository holds something else.

        Raises:
            ModelNotFound, ModelConflict, Unavailable: it is not loaded.
        """
        model = await models.get(reference)
        while True:
            await self.require(model)
            try:
                answer = await embed(model)
            except ModelNotReady:
                self._known.pop(model.served, None)
            else:
                self._used.add(model.served)
                if (answered := ANSWERED.get()) is not None:
                    answered.add(model.manifest.pair)
                return model, answer
            before, model = model, await models.refresh(reference)
            await self.require(model)
            if model.state == before.state:
                raise Unavailable(f"model {reference} is being loaded; retry in a moment")

    async def require(self, model: TextModel | ImageModel) -> None:
        """Return where the load of this version has ended with its check.

        Triton answers from the moment it has a model, which is before its vectors were compared.

        Raises:
            ModelConflict, ModelNotFound, Unavailable: why not; that it is known not to answer, among others.
        """
        if self.knows(model):
            return
        # Of the Triton of this moment, whatever comes while the state is read.
        reference, served, key = model.reference, model.served, self._key(model)
        state = await asyncio.to_thread(self._repository.state, served)
        if state.activity in ("unloading", "deleting"):
            raise ModelConflict(f"model {reference} is being unloaded; load it again to use it")
        if state.activity == "loading":
            raise Unavailable(f"model {reference} is being loaded; retry in a moment")
        if not state.wanted:
            raise not_loaded(reference)
        self._known[served] = key

    def knows(self, model: TextModel | ImageModel) -> bool:
        """Whether the load of this version is known to have ended with its check.

        Raises:
            Unavailable: the model is known not to answer.
        """
        self._monitor.require(model.served)
        return self._known.get(model.served) == self._key(model)

    def _key(self, model: TextModel | ImageModel) -> tuple[int, int]:
        return model.version, self._triton.generation
