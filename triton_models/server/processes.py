"""Processes and shared memory as Linux shows them: what was left behind, and what a process does.

Knows nothing about Triton but the marks it is given.
"""

import logging
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps it; what is made there has a name of its own
_GONE = (FileNotFoundError, ProcessLookupError)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Activity:
    """What a process does at one moment.

    ended: it is a zombie. stopped: a signal holds it. busy: a thread runs, waits for a core or for the disk.
    ticks: CPU time of all its threads so far, in the kernel's ticks (10 ms).
    """

    ended: bool = False
    stopped: bool = False
    busy: bool = False
    ticks: int = 0


def activity(pid: int, *, closely: bool = True) -> Activity | None:
    """What the process `pid` does now; None where there is none. closely: look at all its threads."""
    states, ticks = _stat(_PROC / str(pid))
    if not states:
        return None
    if states in ("Z", "X"):
        return Activity(ended=True)
    if states in ("T", "t"):
        return Activity(stopped=True, ticks=ticks)
    if closely:
        with suppress(*_GONE):
            states += "".join(_stat(task)[0] for task in (_PROC / str(pid) / "task").iterdir())
    return Activity(busy=any(state in states for state in "RD"), ticks=ticks)


def command_line(pid: int) -> str:
    """The arguments of a process, separated by spaces; empty where it is gone or a zombie."""
    return " ".join(arguments(pid))


def arguments(pid: int) -> list[str]:
    """The arguments of a process; none where it is gone or a zombie."""
    try:
        content = (_PROC / str(pid) / "cmdline").read_bytes()
    except _GONE:
        return []
    return [part.decode(errors="replace") for part in content.split(b"\0")[:-1]]


def children(pid: int) -> set[int]:
    """Child processes, those among them that have ended and were not waited for."""
    found: set[int] = set()
    with suppress(*_GONE):
        for task in (_PROC / str(pid) / "task").iterdir():
            with suppress(*_GONE):
                found.update(int(child) for child in (task / "children").read_text().split())
    return found


def kill_marked(mark: str) -> None:
    """Kill every process of ours that has `mark` in its arguments, but this one."""
    for entry in _PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        if mark in command_line(int(entry.name)):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(int(entry.name), signal.SIGKILL)
                logger.warning("killed process %s, left behind by an earlier start", entry.name)


def remove_shared_memory(prefix: str) -> None:
    """Remove shared memory, and directories beside it, whose names start with `prefix`."""
    for path in SHARED_MEMORY.glob(f"{prefix}*"):
        with suppress(FileNotFoundError, PermissionError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def _stat(directory: Path) -> tuple[str, int]:
    """State and CPU time of a process or a thread; no state where it is gone."""
    try:
        stat = (directory / "stat").read_text(errors="replace")
    except _GONE:
        return "", 0
    # The name, in parentheses, may hold anything; the state follows it, utime and stime eleven fields on.
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[11]) + int(fields[12])
