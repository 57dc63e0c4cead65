"""The budget for loaded models: MAX_LOADED_MODELS and MAX_LOADED_BYTES.

A model counts as the bytes of its weights (`model.onnx`, and what lies beside it for a graph over 2 GB), once
for each instance: known before it is loaded, the same on every machine. The two towers of a CLIP model are
one. What counts is what is wanted, in Triton at this moment or not, and what a load in progress was given.
"""

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from filelock import AsyncFileLock

from gateway.errors import GatewayError, InsufficientStorage, ModelConflict
from gateway.model_id import Reference, partners
from gateway.models.locks import LOCK_POLL, Changes, is_held
from gateway.models.rollout import Parts, Serving
from gateway.settings import Settings
from triton_models.client.index import ready_names
from triton_models.contract.config import Tuning
from triton_models.contract.manifest import ManifestError
from triton_models.repository.model_state import last_use, touch
from triton_models.repository.repository import MODEL, Repository, RepositoryError
from triton_models.server.supervisor import Triton

log = logging.getLogger(__name__)


@dataclass
class Place:
    """What one model takes of the budget; served: its parts that were found. bytes: 0 where not known."""

    name: str
    served: set[str]
    bytes: int = 0
    loading: bool = False


class Capacity:
    """Says which models may be loaded beside those that are; unloads some where the operator wants that."""

    def __init__(
        self, settings: Settings, repository: Repository, triton: Triton, changes: Changes, serving: Serving
    ) -> None:
        self._models = settings.max_loaded_models
        self._bytes = settings.max_loaded_bytes
        self._evicts = settings.unload_least_recently_used
        self._repository = repository
        self._triton = triton
        self._changes = changes
        self._serving = serving

    async def note_use(self, used: Iterable[str]) -> None:
        """Remember for all processes that these models, by served name, were asked.

        Triton's own `last_inference` would not do: answers from its cache do not count there.
        """
        if self._evicts:
            for served in used:
                await asyncio.to_thread(touch, self._repository.state_path(served))

    @property
    def is_limited(self) -> bool:
        """Whether there is a budget at all."""
        return self._models is not None or self._bytes is not None

    async def check(self, reference: Reference) -> None:
        """Refuse a model before it is converted, where its number alone, or what is loaded, says enough.

        Raises:
            InsufficientStorage: there is no room, whatever its size.
        """
        if self.is_limited and not self._evicts:
            self._require(reference, 1, await asyncio.to_thread(self._others, reference.served))

    async def admit(self, reference: Reference, parts: Parts, tuning: Tuning) -> None:
        """Give a model its place until it is wanted or its load has failed; who calls holds its locks.

        Raises:
            InsufficientStorage: there is no room, and none can be made.
        """
        if not self.is_limited:
            return
        needed = await asyncio.to_thread(self._size, parts, tuning)
        async with self._one_at_a_time():
            others = await asyncio.to_thread(self._others, reference.served)
            if self._evicts:
                others = await self._make_room(reference, needed, others)
            self._require(reference, needed, others)
            await self._changes.record(reference.served[:1], admitted=needed)

    async def trim(self, first: Iterable[Reference]) -> None:
        """Let go of what was loaded before this start and no longer fits.

        Kept are, in this order and as far as they fit: what is in Triton; `first`; the others by name.
        """
        if not self.is_limited:
            return
        ready = ready_names(await self._triton.client.index())
        order = [reference.served[0] for reference in first]

        def rank(place: Place) -> tuple[bool, int, str]:
            served = min(place.served)
            named = min((order.index(name) for name in place.served if name in order), default=len(order))
            return not place.served <= ready, named, served

        async with self._one_at_a_time():
            places = await asyncio.to_thread(self._others, ())
            kept: list[Place] = []
            for place in sorted(places, key=rank):
                if place.loading or self._problem([*kept, place]) is None:
                    kept.append(place)
                    continue
                reason = f"not loaded again: {self._words(place.name, [*kept, place], kept)}"
                log.warning("%s", reason)
                try:
                    async with self._changes.of(tuple(place.served), None, wait=False):
                        await self._changes.record(tuple(place.served), wanted=False, error=reason)
                except ModelConflict:
                    continue

    def _one_at_a_time(self) -> AsyncFileLock:
        """Who decides what fits, among all processes."""
        return AsyncFileLock(self._repository.state_dir / "capacity.lock", poll_interval=LOCK_POLL)

    def _require(self, reference: Reference, needed: int, others: list[Place]) -> None:
        after = [*others, Place(str(reference), set(), needed)]
        if self._problem(after) is not None:
            raise InsufficientStorage(self._words(str(reference), after, others))

    def _problem(self, places: list[Place]) -> str | None:
        """The setting that these are too much for."""
        if self._models is not None and len(places) > self._models:
            return "MAX_LOADED_MODELS"
        if self._bytes is not None and sum(place.bytes for place in places) > self._bytes:
            return "MAX_LOADED_BYTES"
        return None

    def _words(self, name: str, after: list[Place], others: list[Place]) -> str:
        loaded = ", ".join(sorted(place.name for place in others)) or "none"
        if self._problem(after) == "MAX_LOADED_MODELS":
            budget = f"MAX_LOADED_MODELS is {self._models}, and as many are loaded: {loaded}"
        else:
            taken = sum(place.bytes for place in others)
            budget = (
                f"with it {taken + after[-1].bytes} bytes of weights would be loaded, MAX_LOADED_BYTES is "
                f"{self._bytes}; loaded are: {loaded}"
            )
        return f"no room for model {name}: {budget}; unload a model, or raise the limit"

    async def _make_room(self, reference: Reference, needed: int, others: list[Place]) -> list[Place]:
        """Unload the least recently used until the model fits, and none where that would not do."""
        idle = sorted((place for place in others if not place.loading), key=self._last_use)
        new = Place(str(reference), set(), needed)
        if self._problem([*(place for place in others if place.loading), new]) is not None:
            return others
        for place in idle:
            if self._problem([*others, new]) is None:
                break
            try:
                await self._evict(place, reference)
            except GatewayError as error:
                # Something else is being done with it, or Triton will not let it go: the next one, then.
                log.warning("%s is not unloaded: %s", place.name, error)
                continue
            others = [other for other in others if other is not place]
        return others

    async def _evict(self, place: Place, reference: Reference) -> None:
        parts = tuple(sorted(place.served))
        async with self._changes.of(parts, "unloading", wait=False):
            await self._serving.take_down(parts)
        log.info("%s is unloaded, least recently used, for %s", place.name, reference)

    def _last_use(self, place: Place) -> tuple[int, str]:
        return max(last_use(self._repository.state_path(one)) or 0 for one in place.served), place.name

    def _others(self, own: tuple[str, ...]) -> list[Place]:
        """What takes places, but the model of these parts."""
        found: dict[str, Place] = {}
        for served, state in self._repository.states().items():
            loading = state.admitted is not None and is_held(self._repository, served)
            if served in own or not (state.wanted or loading):
                continue
            place = found.setdefault(min({served} | partners(served)), Place(served, set()))
            place.served.add(served)
            place.loading |= loading
            name, size = self._known(served)
            place.name = name or place.name
            # A load in progress was given what all parts take.
            place.bytes = max(place.bytes + size, state.admitted or 0)
        return list(found.values())

    def _known(self, served: str) -> tuple[str | None, int]:
        """The name and size of what is in the repository; (None, 0) where that cannot be read."""
        try:
            manifest = self._repository.manifest(served)
            return str(Reference.of(manifest)), self._size({served: manifest}, Tuning())
        except (OSError, RepositoryError, ManifestError):
            return None, 0

    def _size(self, parts: Parts, tuning: Tuning) -> int:
        """Bytes of the weights of all parts, once for each instance."""
        total = 0
        for served, manifest in parts.items():
            directory = self._repository.version_dir(served, manifest.version)
            files = sum(path.stat().st_size for path in directory.glob(f"{MODEL}*"))
            total += files * (tuning.apply(self._repository.config(served)).instance_group[0].count or 1)
        return total
