"""Small file systems that are really full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BLOCK = bytes(1 << 16)


@contextmanager
def tmpfs(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own at `place`; skips the test where none may be mounted."""
    place.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def full(place: Path) -> Iterator[None]:
    """No byte is left at `place` within."""
    filler = place / ".filler"
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        for block in (BLOCK, BLOCK[:1]):
            with suppress(OSError):
                while True:
                    os.write(descriptor, block)
        yield
    finally:
        os.close(descriptor)
        filler.unlink()
