"""What a place for records offers, and the one in memory."""

import asyncio
from collections import OrderedDict
from collections.abc import Container
from typing import Any, Protocol

from inference_store.record import Record

Index = dict[str, Any]


class BackendUnavailable(Exception):
    """The place for records does not answer now; the text says why."""


class CannotRecord(Exception):
    """A record could not be kept; the text says why."""


class Backend(Protocol):
    """Where records are kept. A record that was put is there, whole, once `put` returns."""

    async def get(self, key: str) -> Record | None:
        """The record of this name.

        Raises:
            DamagedRecord: it is not whole; it was set aside.
            NewerRecord: it is left where it is.
            BackendUnavailable: it cannot be known whether there is one.
        """

    async def put(self, record: Record) -> None:
        """Keep a record, in place of one of the same name.

        Raises:
            CannotRecord: it was not kept.
        """

    async def indexes(self, known: Container[str]) -> tuple[set[str], dict[str, Index]]:
        """The names of all records, and the indexes of those not in `known` that can be read.

        Raises:
            BackendUnavailable: they cannot be read now.
        """

    async def close(self) -> None:
        """Let go of connections."""


class Memory:
    """Records in this process, the least recently used dropped beyond `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        """Records held."""
        return len(self._records)

    def find(self, key: str) -> Record | None:
        """The record, which is then the most recently used one."""
        record = self._records.get(key)
        if record is not None:
            self._records.move_to_end(key)
        return record

    def keep(self, record: Record) -> bool:
        """Whether the record is held; one larger than the limit is not."""
        self.drop(record.key)
        if record.size > self._limit:
            return False
        self._records[record.key] = record
        self._bytes += record.size
        while self._bytes > self._limit:
            self.drop(next(iter(self._records)))
        return True

    def drop(self, key: str) -> None:
        """Forget a record."""
        record = self._records.pop(key, None)
        if record is not None:
            self._bytes -= record.size

    async def get(self, key: str) -> Record | None:
        """As Backend."""
        return self.find(key)

    async def put(self, record: Record) -> None:
        """As Backend; a record larger than the whole limit is not kept."""
        if not self.keep(record):
            raise CannotRecord(
                f"record {record.key} is larger than the memory backend's limit of {self._limit} bytes"
            )

    async def indexes(self, known: Container[str]) -> tuple[set[str], dict[str, Index]]:
        """As Backend."""
        await asyncio.sleep(0)
        new = {key: record for key, record in self._records.items() if key not in known}
        return set(self._records), {key: {"request": record.description} for key, record in new.items()}

    async def close(self) -> None:
        """Nothing to let go of."""
