"""Processes and shared memory on Linux: observe a process, remove what an earlier run left behind.

This module knows nothing about Triton; callers pass the marks by which its processes are found.
"""

import logging
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - Linux keeps it there; names made there are unique
_GONE = (FileNotFoundError, ProcessLookupError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProcessActivity:
    """The activity of a process at one moment.

    Attributes:
        ended: The process is a zombie.
        stopped: A signal has stopped it.
        busy: One of its threads runs, or waits for a core or for the disk.
        ticks: CPU time of all its threads so far, in the kernel's ticks (10 ms).
    """

    ended: bool = False
    stopped: bool = False
    busy: bool = False
    ticks: int = 0


def activity(pid: int, *, closely: bool = True) -> ProcessActivity | None:
    """Return the activity of the process `pid`, or None if there is none.

    Args:
        pid: Process id.
        closely: Look at all threads of the process, not only at the main one.
    """
    states, ticks = _stat(_PROC / str(pid))
    if not states:
        return None
    if states in ("Z", "X"):
        return ProcessActivity(ended=True)
    if states in ("T", "t"):
        return ProcessActivity(stopped=True, ticks=ticks)
    if closely:
        with suppress(*_GONE):
            states += "".join(_stat(task)[0] for task in (_PROC / str(pid) / "task").iterdir())
    return ProcessActivity(busy=any(state in states for state in "RD"), ticks=ticks)


def command_line(pid: int) -> str:
    """Return the arguments of a process, separated by spaces; empty if it is gone or a zombie."""
    return " ".join(arguments(pid))


def arguments(pid: int) -> list[str]:
    """Return the arguments of a process; an empty list if it is gone or a zombie."""
    try:
        content = (_PROC / str(pid) / "cmdline").read_bytes()
    except _GONE:
        return []
    return [part.decode(errors="replace") for part in content.split(b"\0")[:-1]]


def children(pid: int) -> set[int]:
    """Return the ids of the child processes, including those that have ended and were not waited for."""
    found: set[int] = set()
    with suppress(*_GONE):
        for task in (_PROC / str(pid) / "task").iterdir():
            with suppress(*_GONE):
                found.update(int(child) for child in (task / "children").read_text().split())
    return found


def kill_marked(mark: str) -> None:
    """Kill every process of ours, except this one, that has `mark` in its arguments."""
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        if mark in command_line(int(entry.name)):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(entry.name), signal.SIGKILL)
                logger.warning("killed process %s, left behind by an earlier start", entry.name)


def remove_shared_memory(prefix: str) -> None:
    """Remove all shared memory, and directories beside it, whose names start with `prefix`."""
    for path in SHARED_MEMORY.glob(f"{prefix}*"):
        with suppress(FileNotFoundError, PermissionError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _stat(directory: Path) -> tuple[str, int]:
    """Return the state and the CPU time of a process or thread; the state is empty if it is gone."""
    try:
        stat = (directory / "stat").read_text(errors="replace")
    except _GONE:
        return "", 0
    # The name, in parentheses, may hold any character. The state follows it; utime and stime are eleven and
    # twelve fields further on.
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[11]) + int(fields[12])
