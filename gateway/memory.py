"""The resident memory of the server's processes, and the return of unused memory to the system."""

import ctypes
import os
from collections import defaultdict
from multiprocessing import parent_process
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_KINDS = {b"tritonserver": "triton", b"converters": "converter"}


def resident_memory(proc: Path = Path("/proc")) -> dict[str, int]:
    """Measure the resident memory of this server's processes.

    Args:
        proc: the directory where Linux shows its processes.

    Returns:
        Bytes by kind of process: `front_end`, `triton` (the embedded Triton and the processes of its models)
        and `converter`. Memory that processes share counts in each of them. Empty if `proc` does not exist.
    """
    parent = parent_process()
    children: dict[int, list[int]] = defaultdict(list)
    for entry in proc.iterdir() if proc.is_dir() else ():
        if entry.name.isdigit() and (fields := _stat(entry)):
            children[int(fields[1])].append(int(entry.name))
    sizes: dict[str, int] = defaultdict(int)
    # With several workers, start at their parent, so that all of them count.
    waiting = [(os.getpid() if parent is None or parent.pid is None else parent.pid, "front_end")]
    while waiting:
        pid, kind = waiting.pop()
        kind = _kind(proc / str(pid), kind)
        sizes[kind] += _resident(proc / str(pid))
        waiting += [(child, kind) for child in children[pid]]
    return {kind: size for kind, size in sizes.items() if size}


def give_back() -> None:
    """Return freed memory to the system; this takes milliseconds, without the interpreter's lock.

    Reading a tokenizer takes tens of megabytes for a moment. glibc keeps freed memory that lies below a block
    still in use: after a hundred models the process would hold twice the memory it uses. See malloc_trim(3).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    # Other C libraries do not have this function, nor such arenas.
    if trim is not None:
        trim(0)


def _stat(process: Path) -> list[str]:
    """Return the fields of `stat` after the name, which may hold any character: state, parent and so on."""
    try:
        return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        # The process has ended in the meantime.
        return []


def _kind(process: Path, inherited: str) -> str:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return inherited
    for word in words[:3]:
        if kind := _KINDS.get(word.rpartition(b"/")[2]):
            return kind
    return inherited


def _resident(process: Path) -> int:
    try:
        return int((process / "statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


LARGE_BLOCK = 1 << 20
"""Size in bytes from which malloc maps a block separately; the images of most requests are smaller."""

_M_MMAP_THRESHOLD = -3


def give_back_large_blocks() -> None:
    """Make glibc return large blocks to the system as soon as they are freed.

    By default, once a block of this size has been freed, glibc keeps freed blocks in every thread. 64 images
    of 12 megapixels then left 285 MB behind; with this setting, 7 MB. Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)
