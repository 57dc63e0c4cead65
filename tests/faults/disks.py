"""Small file systems, to be filled completely."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BLOCK = bytes(1 << 16)


@contextmanager
def tmpfs(place: Path, megabytes: int) -> Iterator[Path]:
    """Mount a separate file system at `place`; skip the test where mounting is not allowed."""
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
    """Fill the file system at `place` to the last byte inside the block."""
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
