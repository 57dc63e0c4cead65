"""Reservation of memory by conversions: as many run side by side as memory allows, the rest wait.

A conversion may allocate no more than was free when it began. Beyond that, allocations fail with an error
that can be reported; otherwise the kernel would kill some process.

Every conversion has an entry in `conversions/`: a file that says how much memory it will take,
locked (flock) as long as its process lives. An entry without a lock belongs to a dead process.
"""

import fcntl
import json
import os
import resource
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock

_POLL_SECONDS = 0.5
# Peak resident memory, measured on two cores: a tiny BERT 576 MiB, all-MiniLM-L6-v2 (87 MiB of weights)
# 1,138 MiB, all-mpnet-base-v2 (418 MiB) 2,937 MiB; CLIP's RN50 (389 MiB) 2,091 MiB, ViT-B-32 (577 MiB)
# 3,131 MiB. An estimate with these two numbers is above all of them.
_BASE_BYTES = 600 * 2**20
_WEIGHTS_FACTOR = 6.5
# Share of the free memory that is left to the rest of the machine.
_SPARE_PART = 0.05
# Memory that a thread reserves but does not use: its stack, and the allocator's arenas.
_THREAD_BYTES = 32 * 2**20


def estimate(weight_bytes: int) -> int:
    """Return the peak memory, in bytes, of converting a model whose float32 weights have this size."""
    return _BASE_BYTES + int(_WEIGHTS_FACTOR * weight_bytes)


@contextmanager
def reserve(
    directory: Path,
    needed: int,
    waiting: Callable[[], None],
    available: Callable[[], int | None] | None = None,
) -> Iterator[None]:
    """Wait until `needed` bytes are free beside the other conversions, then reserve them.

    A single conversion always starts, because waiting would not give it more memory. No conversion gets more
    than is free: allocations beyond that fail with MemoryError, or with the libraries' own errors.

    Args:
        directory: Directory of the entries; created if it does not exist.
        needed: Bytes to reserve.
        waiting: Called each time the conversion has to wait.
        available: Returns the free bytes, or None if the system does not report them; by default
            `available_bytes`.
    """
    measure = available or available_bytes
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / "ledger.lock")
    while True:
        with lock:
            others = _living(directory)
            free = measure()
            if _fits(needed, others, free):
                entry = _enter(directory, needed)
                break
        waiting()
        time.sleep(_POLL_SECONDS)
    try:
        with _bounded(None if free is None else free - _promised(others)):
            yield
    finally:
        with lock:
            Path(entry.name).unlink(missing_ok=True)
            entry.close()


def available_bytes() -> int | None:
    """Return the bytes that a new process could take: the machine's, or the container's if they are fewer.

    None if the system does not report them.
    """
    free = _kilobytes("/proc/meminfo", "MemAvailable")
    limit, used = (_number(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        room = limit - used + _file_cache()
        free = room if free is None else min(free, room)
    return free


def _fits(needed: int, others: list[tuple[int, int]], available: int | None) -> bool:
    """Return whether a conversion may start; others: (pid, reserved bytes) of each running conversion."""
    if not others:
        return True
    if available is None:
        return False
    return needed <= available - _promised(others)


def _promised(others: list[tuple[int, int]]) -> int:
    """Return the bytes that others have reserved but not taken yet; they are free, but not available."""
    return sum(max(0, reserved - _resident(pid)) for pid, reserved in others)


@contextmanager
def _bounded(room: int | None) -> Iterator[None]:
    """Limit this process's further allocations to about `room` bytes; None for no limit."""
    # The allocated bytes as RLIMIT_DATA counts them.
    taken = _kilobytes("/proc/self/status", "VmData")
    if room is None or taken is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    threads = _THREAD_BYTES * (os.cpu_count() or 1)
    bound = taken + max(_BASE_BYTES, int(room * (1 - _SPARE_PART)) + _swap()) + threads
    if hard != resource.RLIM_INFINITY:
        bound = min(bound, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _enter(directory: Path, needed: int) -> IO[str]:
    """Write and lock an entry for this process."""
    name = f"{os.getpid()}-{secrets.token_hex(4)}.json"
    entry = (directory / name).open("w", encoding="utf-8")
    fcntl.flock(entry, fcntl.LOCK_EX)
    json.dump({"pid": os.getpid(), "bytes": needed}, entry)
    entry.flush()
    return entry


def _living(directory: Path) -> list[tuple[int, int]]:
    """Return (pid, bytes) of each entry whose process is alive, and remove the other entries."""
    living = []
    for path in directory.glob("*.json"):
        with path.open(encoding="utf-8") as entry:
            try:
                fcntl.flock(entry, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                data = json.load(entry)
                living.append((int(data["pid"]), int(data["bytes"])))
            else:
                path.unlink(missing_ok=True)
    return living


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _kilobytes(path: str, name: str) -> int | None:
    """Return the bytes of the line `name: NUMBER kB` of a file in /proc; None if there is none."""
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)


def _swap() -> int:
    """Return the usable bytes of swap; 0 if a control group limits the memory."""
    limited = _number(Path("/sys/fs/cgroup/memory.max")) is not None
    return 0 if limited else _kilobytes("/proc/meminfo", "SwapFree") or 0


def _number(path: Path) -> int | None:
    """Return the number in a file of the control group; None if the file is missing or says `max`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _file_cache() -> int:
    """Return the bytes of file cache in the control group, which the kernel frees when they are needed."""
    try:
        lines = Path("/sys/fs/cgroup/memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.split()[0] in ("inactive_file", "active_file"))
