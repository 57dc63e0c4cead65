"""Limits how many models are loaded: MAX_LOADED_MODELS.

The two towers of a CLIP model are one model. A model counts if it is wanted, whether or not it is in Triton
at the moment, or if a load in progress was admitted.
"""

import asyncio
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from filelock import AsyncFileLock

from gateway.errors import GatewayError, InsufficientStorage, ModelConflict
from gateway.model_id import ModelId, partners
from gateway.models.locks import LOCK_POLL, ModelLocks, is_held
from gateway.models.rollout import Rollout
from gateway.settings import Settings
from triton_models.client.index import ready_names
from triton_models.contract.manifest import ManifestError
from triton_models.repository.model_state import last_use, touch
from triton_models.repository.repository import Repository, RepositoryError
from triton_models.server.triton import Triton

log = logging.getLogger(__name__)


@dataclass
class Place:
    """A model that counts towards the limit.

    Attributes:
        name: Name that clients use; a name in Triton if the manifest cannot be read.
        triton_names: Names in Triton of its parts that count.
        loading: True while a load of it is in progress.
    """

    name: str
    triton_names: set[str]
    loading: bool = False


class Capacity:
    """Decides which models may be loaded, and unloads others to make room if the settings allow it."""

    def __init__(
        self, settings: Settings, repository: Repository, triton: Triton, locks: ModelLocks, rollout: Rollout
    ) -> None:
        self._most = settings.max_loaded_models
        self._evicts = settings.evict_least_recently_used
        self._repository = repository
        self._triton = triton
        self._locks = locks
        self._rollout = rollout

    async def note_use(self, used: Iterable[str]) -> None:
        """Record for all processes that these models, by their names in Triton, were used.

        Triton's own `last_inference` is not enough: it does not include answers from the cache.
        """
        if self._evicts:
            for triton_name in used:
                await asyncio.to_thread(touch, self._repository.state_path(triton_name))

    @property
    def is_limited(self) -> bool:
        """Return whether the operator set a limit."""
        return self._most is not None

    async def check(self, model_id: ModelId) -> None:
        """Refuse a model before it is converted.

        Raises:
            InsufficientStorage: Too many models are loaded, and none may be unloaded for it.
        """
        if self._most is not None and not self._evicts:
            self._require(model_id, await asyncio.to_thread(self._others, model_id.triton_names))

    async def admit(self, model_id: ModelId) -> None:
        """Reserve a place for a model until it is wanted or its load has failed. The caller holds its locks.

        Raises:
            InsufficientStorage: Too many models are loaded, and none can be unloaded.
        """
        if self._most is None:
            return
        async with self._one_at_a_time():
            others = await asyncio.to_thread(self._others, model_id.triton_names)
            if self._evicts:
                others = await self._make_room(model_id, others)
            self._require(model_id, others)
            await self._locks.record(model_id.triton_names[:1], admitted=1)

    async def trim(self, first: Iterable[ModelId]) -> None:
        """Drop models that were loaded before this start and exceed the limit now.

        Models are kept in this order: those that are loading, those in Triton, `first`, the others by name.
        """
        if self._most is None:
            return
        ready = ready_names(await self._triton.client.index())
        order = [model_id.triton_names[0] for model_id in first]

        def rank(place: Place) -> tuple[bool, bool, int, str]:
            named = min(
                (order.index(name) for name in place.triton_names if name in order), default=len(order)
            )
            return not place.loading, not place.triton_names <= ready, named, min(place.triton_names)

        async with self._one_at_a_time():
            places = sorted(await asyncio.to_thread(self._others, ()), key=rank)
            kept = places[: self._most]
            for place in places[self._most :]:
                if place.loading:
                    continue
                reason = f"not loaded again: {self._words(place.name, kept)}"
                log.warning("%s", reason)
                try:
                    async with self._locks.hold(tuple(place.triton_names), None, wait=False):
                        await self._locks.record(tuple(place.triton_names), wanted=False, error=reason)
                except ModelConflict:
                    continue

    def _one_at_a_time(self) -> AsyncFileLock:
        """Return the lock that lets one process decide at a time."""
        return AsyncFileLock(self._repository.state_dir / "capacity.lock", poll_interval=LOCK_POLL)

    def _require(self, model_id: ModelId, others: list[Place]) -> None:
        if self._most is not None and len(others) >= self._most:
            raise InsufficientStorage(self._words(str(model_id), others))

    def _words(self, name: str, others: list[Place]) -> str:
        loaded = ", ".join(sorted(place.name for place in others)) or "none"
        return (
            f"no room for model {name}: MAX_LOADED_MODELS is {self._most}, and as many are loaded: {loaded}; "
            "unload a model, or raise the limit"
        )

    async def _make_room(self, model_id: ModelId, others: list[Place]) -> list[Place]:
        """Unload the least recently used models until the model fits; none if it still would not fit."""
        assert self._most is not None
        idle = sorted((place for place in others if not place.loading), key=self._last_use)
        if len(others) - len(idle) >= self._most:
            return others
        for place in idle:
            if len(others) < self._most:
                break
            try:
                await self._evict(place, model_id)
            except GatewayError as error:
                # Another operation holds the model, or Triton did not unload it: try the next one.
                log.warning("%s is not unloaded: %s", place.name, error)
                continue
            others = [other for other in others if other is not place]
        return others

    async def _evict(self, place: Place, model_id: ModelId) -> None:
        parts = tuple(sorted(place.triton_names))
        async with self._locks.hold(parts, "unloading", wait=False):
            await self._rollout.unload(parts)
        log.info("%s is unloaded, least recently used, for %s", place.name, model_id)

    def _last_use(self, place: Place) -> tuple[int, str]:
        return max(last_use(self._repository.state_path(one)) or 0 for one in place.triton_names), place.name

    def _others(self, own: tuple[str, ...]) -> list[Place]:
        """Return all models that count, except the one with these parts."""
        found: dict[str, Place] = {}
        for triton_name, state in self._repository.states().items():
            loading = state.admitted is not None and is_held(self._repository, triton_name)
            if triton_name in own or not (state.wanted or loading):
                continue
            place = found.setdefault(min({triton_name} | partners(triton_name)), Place(triton_name, set()))
            place.triton_names.add(triton_name)
            place.loading |= loading
            with suppress(OSError, RepositoryError, ManifestError):
                place.name = str(ModelId.of(self._repository.manifest(triton_name)))
        return list(found.values())
