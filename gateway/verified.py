"""Which models may be asked: those whose load ended with its check, in the Triton of this moment."""

import asyncio

from gateway.catalog import not_loaded
from gateway.errors import ModelConflict, Unavailable
from gateway.references import Reference
from triton_models.repository import Repository
from triton_models.supervisor import Triton


class Verified:
    """Looked up once for a version and a Triton, so that it costs a request nothing."""

    def __init__(self, repository: Repository, triton: Triton) -> None:
        self._repository = repository
        self._triton = triton
        self._known: dict[str, tuple[int, int]] = {}

    def forget(self, served: str) -> None:
        """Look the model up again the next time."""
        self._known.pop(served, None)

    async def require(self, reference: Reference, served: str, version: int) -> None:
        """Return where the load of this version has ended with its check.

        Triton answers from the moment it has a model, which is before its vectors were compared.

        Raises:
            ModelConflict, ModelNotFound, Unavailable: why not.
        """
        key = (version, self._triton.generation)
        if self._known.get(served) == key:
            return
        state = await asyncio.to_thread(self._repository.state, served)
        if state.activity in ("unloading", "deleting"):
            raise ModelConflict(f"model {reference} is being unloaded; load it again to use it")
        if state.activity == "loading":
            raise Unavailable(f"model {reference} is being loaded; retry in a moment")
        if not state.wanted:
            raise not_loaded(reference)
        self._known[served] = key
