"""What a server's processes cost, read from /proc (Linux)."""

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """CPU time of one process so far, all its threads, none of its children."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat(int(entry.name))[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for process in found:
        found.extend(children.get(process, ()))
    return found


def resident_bytes(pid: int) -> dict[str, int]:
    """Resident memory of a process and each of its descendants, by name and number."""
    sizes = {}
    for process in tree(pid):
        try:
            pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
            name = Path(f"/proc/{process}/comm").read_text(encoding="utf-8").strip()
        except OSError:
            continue
        sizes[f"{name}-{process}"] = pages * _PAGE
    return sizes


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; the name before them may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
