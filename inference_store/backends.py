"""The interface of a place for records, and the place in memory."""

import asyncio
from collections import OrderedDict
from collections.abc import Container
from typing import Any, Protocol

from inference_store.record import Record

Index = dict[str, Any]


class BackendUnavailable(Exception):
    """The place for records does not answer now; the message says why."""


class CannotRecord(Exception):
    """A record could not be kept; the message says why."""


class Backend(Protocol):
    """A place for records. Once `put` returns, the record is there completely."""

    async def get(self, key: str) -> Record | None:
        """Return the record of this name, or None.

        Raises:
            DamagedRecord: The record is damaged; it was set aside or deleted.
            NewerRecord: The record has a newer format; it stays where it is.
            BackendUnavailable: The place does not tell whether there is one.
        """

    async def put(self, record: Record) -> None:
        """Keep a record, and replace one of the same name.

        Raises:
            CannotRecord: The record was not kept.
        """

    async def indexes(self, known: Container[str]) -> tuple[set[str], dict[str, Index]]:
        """Return the names of all records, and the readable indexes of those not in `known`.

        Raises:
            BackendUnavailable: The records cannot be read now.
        """

    async def close(self) -> None:
        """Close the connections."""


class Memory:
    """Records in this process; beyond `limit` bytes the least recently used ones are dropped."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        """Return the number of records held."""
        return len(self._records)

    def find(self, key: str) -> Record | None:
        """Return the record, if held, and mark it as the most recently used one."""
        record = self._records.get(key)
        if record is not None:
            self._records.move_to_end(key)
        return record

    def keep(self, record: Record) -> bool:
        """Hold a record and return True; one larger than the limit is not held."""
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
        """As Backend; a record larger than the limit is not kept."""
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
        """Do nothing, as there are no connections."""
