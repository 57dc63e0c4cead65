"""Processes and shared memory as Linux shows them, for finding what was left behind.

Knows nothing about Triton but the marks it is given.
"""

import logging
import os
import signal
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps it, no file of ours is made there

logger = logging.getLogger(__name__)


def command_line(pid: int) -> str:
    """The arguments of a process, separated by spaces; empty where it is gone or a zombie."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def zombie_children(pid: int) -> set[int]:
    """Children of a process that have ended and were not waited for."""
    zombies: set[int] = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in (_PROC / str(pid) / "task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                children = (task / "children").read_text().split()
                zombies.update(int(child) for child in children if _state(int(child)) == "Z")
    return zombies


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
    """Remove shared memory whose name starts with `prefix`."""
    for path in _SHARED_MEMORY.glob(f"{prefix}*"):
        with suppress(FileNotFoundError, PermissionError):
            path.unlink()


def _state(pid: int) -> str:
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The name, in parentheses, may hold anything; the state follows it.
    return stat.rpartition(")")[2].split()[0]
