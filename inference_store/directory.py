"""Records as files of one directory, `SHA256.record`, for any number of processes at once.

A record is written under a temporary name and then renamed. So it is there completely or not at all, even
after a kill.
"""

import asyncio
import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from inference_store.backends import BackendUnavailable, CannotRecord, Index, Memory
from inference_store.record import (
    HEAD_BYTES,
    DamagedRecord,
    NewerRecord,
    Record,
    UnreadableRecord,
    decode,
    encode,
    read_index,
    same,
)

log = logging.getLogger(__name__)

SUFFIX = ".record"
DAMAGED = ".damaged"
TEMPORARY = ".writing-"
ABANDONED_SECONDS = 3600.0
"""The age from which an unfinished file is taken to belong to a process that died."""

_NAME = re.compile(r"([0-9a-f]{64})\.record")
_CACHED_BYTES = 64 << 20
_THREADS = 4
_COUNTER = itertools.count()

Stamp = tuple[int, int, int]


class RecordFiles:
    """The files of a directory of records. The methods block, and several threads may call them at once.

    Args:
        path: The directory.
        compress: Whether records are written compressed; both kinds are read.
    """

    def __init__(self, path: Path, *, compress: bool = False) -> None:
        self.path = path
        self._compress = compress
        # A record in the cache is valid while its file is the same: a replaced file has another inode, a
        # changed one another time.
        self._cache = Memory(_CACHED_BYTES)
        self._stamps: dict[str, Stamp] = {}
        self._lock = threading.Lock()

    def read(self, key: str) -> Record | None:
        """Return the record of this name, or None.

        Raises:
            DamagedRecord: The record is damaged; it was set aside now or before.
            NewerRecord: The record has a newer format; it stays where it is.
            BackendUnavailable: The file cannot be read.
        """
        file = self.file(key)
        try:
            found = file.stat()
        except FileNotFoundError:
            if (aside := self.aside(key)).exists():
                raise DamagedRecord(f"record {key} was damaged and set aside as {aside.name}") from None
            return None
        except OSError as error:
            raise BackendUnavailable(f"{file}: {error.strerror}") from error
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        with self._lock:
            if self._stamps.get(key) == stamp and (record := self._cache.find(key)) is not None:
                return record
        record = self._read(key)
        with self._lock:
            self._stamps[key] = stamp
            if not self._cache.keep(record):
                self._stamps.pop(key)
            elif len(self._stamps) > 2 * len(self._cache) + 1000:
                self._stamps = {kept: old for kept, old in self._stamps.items() if self._cache.find(kept)}
        return record

    def write(self, record: Record) -> None:
        """Keep a record. A file with the same content stays, so that recording again changes nothing.

        Raises:
            CannotRecord: The file system refuses, or a record of a newer version has this name.
        """
        try:
            present = self.read(record.key)
        except DamagedRecord as error:
            log.warning("%s; it is recorded anew", error)
            present = None
        except (NewerRecord, BackendUnavailable) as error:
            raise CannotRecord(str(error)) from error
        if present is not None and same(present, record):
            return
        temporary = f"{self.path}/{TEMPORARY}{os.getpid()}-{next(_COUNTER)}"
        try:
            _write_new(temporary, encode(record, compress=self._compress))
            _move(temporary, f"{self.path}/{record.key}{SUFFIX}", replace=present is not None)
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            raise CannotRecord(
                f"record {record.key} could not be written to {self.path}: {error.strerror}"
            ) from error

    def keys(self) -> set[str]:
        """Return the names of all records, including damaged ones that nobody has read yet.

        Raises:
            BackendUnavailable: The directory cannot be read.
        """
        try:
            return {match[1] for name in os.listdir(self.path) if (match := _NAME.fullmatch(name))}
        except OSError as error:
            raise BackendUnavailable(f"{self.path}: {error.strerror}") from error

    def foreign(self) -> list[str]:
        """Return the names of files that are neither records nor set aside nor unfinished."""
        known = (SUFFIX, SUFFIX + DAMAGED)
        return sorted(
            name
            for name in os.listdir(self.path)
            if not name.startswith(TEMPORARY)
            and not (name.endswith(known) and _NAME.fullmatch(name.removesuffix(DAMAGED)))
        )

    def index(self, key: str) -> Index:
        """Return the index of one record, read without its content.

        Raises:
            UnreadableRecord: The record has no index that can be read.
            OSError: The file cannot be read.
        """
        with self.file(key).open("rb") as file:
            head = file.read(HEAD_BYTES)
            while b"\n\n" not in head and (more := file.read(HEAD_BYTES)):
                head += more
        return read_index(head, key)

    def file(self, key: str) -> Path:
        """Return the path of a record."""
        return self.path / f"{key}{SUFFIX}"

    def aside(self, key: str) -> Path:
        """Return the path to which a damaged record is moved."""
        return self.path / f"{key}{SUFFIX}{DAMAGED}"

    def remove_unfinished(self) -> list[str]:
        """Remove the unfinished files of processes that died, and return their names."""
        removed = []
        for file in self.path.glob(f"{TEMPORARY}*"):
            with suppress(OSError):
                if time.time() - file.stat().st_mtime > ABANDONED_SECONDS:
                    file.unlink()
                    removed.append(file.name)
        return removed

    def _read(self, key: str) -> Record:
        file = self.file(key)
        try:
            return decode(file.read_bytes(), key)
        except DamagedRecord as error:
            try:
                file.replace(self.aside(key))
            except OSError as refused:
                raise DamagedRecord(f"{error}; it could not be set aside: {refused.strerror}") from error
            raise DamagedRecord(f"{error}; set aside as {self.aside(key).name}") from error
        except OSError as error:
            raise BackendUnavailable(f"{file}: {error.strerror}") from error


def _write_new(path: str, data: bytes) -> None:
    """Write a new file, at half the cost of a file object."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)


def _move(temporary: str, path: str, *, replace: bool) -> None:
    """Give a written file its name; if another store has just written the same record, that one stays.

    `os.replace` would serve both cases, but some file systems write a file's data to the disk before its name
    replaces another, which takes milliseconds.
    """
    if not replace:
        try:
            os.link(temporary, path)
        except FileExistsError:
            os.unlink(temporary)
            return
        except OSError:
            pass  # the file system has no hard links
        else:
            os.unlink(temporary)
            return
    os.replace(temporary, path)


class Directory:
    """The backend of a directory, whose files are read and written in threads."""

    def __init__(self, files: RecordFiles) -> None:
        self.files = files
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="records")

    async def get(self, key: str) -> Record | None:
        """As Backend."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.files.read, key)

    async def put(self, record: Record) -> None:
        """As Backend."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self.files.write, record)

    async def indexes(self, known: Container[str]) -> tuple[set[str], dict[str, Index]]:
        """As Backend."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._indexes, known)

    async def close(self) -> None:
        """Wait for running reads and writes."""
        await asyncio.to_thread(self._threads.shutdown)

    def _indexes(self, known: Container[str]) -> tuple[set[str], dict[str, Index]]:
        keys = self.files.keys()
        found = {}
        for key in keys:
            if key not in known:
                with suppress(UnreadableRecord, OSError):
                    found[key] = self.files.index(key)
        return keys, found
