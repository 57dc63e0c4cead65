"""What memory the server's processes take, as Linux tells it; and giving back what is not used."""

import ctypes
import os
from collections import defaultdict
from multiprocessing import parent_process
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
_KINDS = {b"tritonserver": "triton", b"converters": "converter"}


def resident_memory(proc: Path = Path("/proc")) -> dict[str, int]:
    """Resident bytes of this server's processes by what they are: front_end, triton, converter.

    triton: the embedded one with the processes of its models. What processes share counts in each of them.
    Empty where there is no /proc.
    """
    parent = parent_process()
    children: dict[int, list[int]] = defaultdict(list)
    for entry in proc.iterdir() if proc.is_dir() else ():
        if entry.name.isdigit() and (fields := _stat(entry)):
            children[int(fields[1])].append(int(entry.name))
    sizes: dict[str, int] = defaultdict(int)
    # With several workers, all of them and their parent.
    waiting = [(os.getpid() if parent is None or parent.pid is None else parent.pid, "front_end")]
    while waiting:
        pid, kind = waiting.pop()
        kind = _kind(proc / str(pid), kind)
        sizes[kind] += _resident(proc / str(pid))
        waiting += [(child, kind) for child in children[pid]]
    return {kind: size for kind, size in sizes.items() if size}


def give_back() -> None:
    """Return freed memory to the system; takes milliseconds and holds no interpreter's lock.

    Reading a tokenizer takes tens of megabytes for a moment, and glibc keeps what lies below anything that
    lives longer: after a hundred models the process would hold twice what it uses. malloc_trim(3).
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    # Other C libraries have none, and no such arenas.
    if trim is not None:
        trim(0)


def _stat(process: Path) -> list[str]:
    """The fields after the name, which may hold anything: state, parent and so on."""
    try:
        return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        # It has ended since.
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
"""Bytes from which a block is mapped for itself; the images of most requests are below."""

_M_MMAP_THRESHOLD = -3


def give_back_large_blocks() -> None:
    """Have the C library return large blocks to the system at once, where it is glibc.

    By itself it begins to keep what is freed, in every thread, once a block of this size was freed: 64
    images of 12 megapixels then left 285 MB behind, and 7 MB with this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)
