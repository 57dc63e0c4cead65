"""An index of all records' descriptions, to find a record by looser rules, or the one nearest to a miss.

It is filled on first use, and updated whenever a request finds no record of its own.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator

from inference_store.backends import Backend
from inference_store.closeness import (
    differences,
    distance,
    first_difference,
    largest_difference,
    narrowed,
    suffices,
)
from inference_store.identity import Description, Matching, identity
from inference_store.protocol import InferRequest, Message
from inference_store.record import Record, UnreadableRecord

_COMPARED = 16
"""The most records of equal distance whose content is compared with that of a miss."""


class RecordIndex:
    """The descriptions of a backend's records."""

    def __init__(self, backend: Backend, matching: Matching) -> None:
        self._backend = backend
        self._matching = matching
        self._descriptions: dict[str, Description] = {}
        self._identities: dict[str, str] = {}
        self._alike: dict[str, set[str]] = defaultdict(set)
        self._lock = asyncio.Lock()

    async def refresh(self) -> None:
        """Read the new records, and forget those that are gone.

        Raises:
            BackendUnavailable: The records cannot be read now.
        """
        async with self._lock:
            keys, new = await self._backend.indexes(self._descriptions)
            for key in self._descriptions.keys() - keys:
                self._alike[self._identities.pop(key)].discard(key)
                del self._descriptions[key]
            for key, index in new.items():
                self._descriptions[key] = index["request"]
                self._identities[key] = identity(index["request"], self._matching)
                self._alike[self._identities[key]].add(key)

    async def match(self, description: Description, request: Message) -> Record | None:
        """Return the closest record with a good answer that matches by looser rules, or None.

        Raises:
            BackendUnavailable: The records cannot be read now.
        """
        if self._matching.strict:
            return None
        wanted = identity(description, self._matching)
        found = await self._closest(self._alike.get(wanted, ()), description, request)
        if found is None:
            await self.refresh()
            found = await self._closest(self._alike.get(wanted, ()), description, request)
        return None if found is None else narrowed(found, description)

    async def has_model(self, name: str, version: str) -> bool:
        """Return whether an inference of this model is recorded; version "" stands for any version.

        Raises:
            BackendUnavailable: The records cannot be read now.
        """
        await self.refresh()
        return any(
            described.get("model") == name and version in ("", described.get("version", ""))
            for described in self._inferences()
        )

    async def explain(self, description: Description, request: Message) -> str:
        """Return one line that says why no record answers, with the nearest record and the differences.

        Raises:
            BackendUnavailable: The records cannot be read now.
        """
        await self.refresh()
        method, model = description["method"], description.get("model", "")
        alike = {
            key: described
            for key, described in self._descriptions.items()
            if (described["method"], described.get("model", "")) == (method, model)
        }
        if not alike:
            models = sorted({str(described.get("model", "")) for described in self._inferences()})
            known = f"models recorded: {', '.join(models[:10])}" if models else "no inference is recorded"
            return f"{method}{f' of model {model!r}' if model else ''} is not recorded at all; {known}"
        distances = {key: distance(description, described) for key, described in alike.items()}
        nearest = sorted(key for key in alike if distances[key] == min(distances.values()))
        key, content = await self._nearest_content(nearest[:_COMPARED], request, description)
        parts = [*differences(description, alike[key]), *content]
        return (
            f"{method}{f' of model {model!r}' if model else ''} is not recorded like this. "
            f"The nearest of {len(alike)} records is {key[:12]}: {'; '.join(parts) or 'none differs'}"
        )

    def _inferences(self) -> Iterator[Description]:
        return (described for described in self._descriptions.values() if "inputs" in described)

    async def _closest(
        self, keys: Iterable[str], description: Description, request: Message
    ) -> Record | None:
        best: tuple[float, Record] | None = None
        for key in sorted(keys):
            record = await self._readable(key)
            if record is None or not record.outcome.good or not suffices(description, record):
                continue
            apart = 0.0
            if self._matching.tolerance:
                recorded = InferRequest.FromString(record.request)
                apart = await asyncio.to_thread(largest_difference, request, recorded)
            if apart <= self._matching.tolerance and (best is None or apart < best[0]):
                best = (apart, record)
        return None if best is None else best[1]

    async def _nearest_content(
        self, keys: list[str], request: Message, description: Description
    ) -> tuple[str, list[str]]:
        """Return the one of equally near records with the fewest different elements, and the differences."""
        best: tuple[int, str, list[str]] = (-1, keys[0], [])
        for key in keys if "inputs" in description else ():
            record = await self._readable(key)
            if record is None or "inputs" not in record.description:
                continue
            recorded = InferRequest.FromString(record.request)
            count, texts = await asyncio.to_thread(first_difference, request, recorded)
            if best[0] < 0 or count < best[0]:
                best = (count, key, texts)
        return best[1], best[2]

    async def _readable(self, key: str) -> Record | None:
        try:
            return await self._backend.get(key)
        except UnreadableRecord:
            return None
