"""Which conversions run side by side."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from converters import memory_reservation

HOLDER = """
import sys, time
from pathlib import Path
from converters import memory_reservation
with memory_reservation.reserve(Path(sys.argv[1]), int(sys.argv[2]), lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has reserved 6 GB and takes next to nothing yet."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), str(6 * 2**30)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def refuse() -> None:
    raise AssertionError("had to wait")


def test_one_alone_never_waits(tmp_path: Path) -> None:
    with memory_reservation.reserve(tmp_path, 10**15, refuse, lambda: 0):
        assert len(list(tmp_path.glob("*.json"))) == 1
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.usefixtures("holder")
def test_two_run_side_by_side_where_memory_allows(tmp_path: Path) -> None:
    with memory_reservation.reserve(tmp_path, 2**30, refuse, lambda: 8 * 2**30):
        assert len(list(tmp_path.glob("*.json"))) == 2


def test_what_the_other_has_reserved_and_not_taken_is_not_free(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    turns = []

    def wait() -> None:
        turns.append(time.monotonic())
        if len(turns) == 2:
            holder.send_signal(signal.SIGKILL)
            holder.wait()

    with memory_reservation.reserve(tmp_path, 3 * 2**30, wait, lambda: 8 * 2**30):
        # Let in by the other's death, whose entry is gone with it.
        assert 2 <= len(turns) <= 4
        assert len(list(tmp_path.glob("*.json"))) == 1


def test_an_entry_left_by_a_dead_process_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "1-dead.json").write_text(json.dumps({"pid": os.getpid(), "bytes": 10**15}))
    (tmp_path / "2-torn.json").write_text("{")
    with memory_reservation.reserve(tmp_path, 1, refuse, lambda: 2):
        assert len(list(tmp_path.glob("*.json"))) == 1


def test_the_machine_says_what_is_free() -> None:
    free = memory_reservation.available_bytes()
    assert free is not None
    assert 2**20 < free < 2**50


def test_a_conversion_gets_no_more_than_was_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_reservation, "_swap", lambda: 0)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_reservation.reserve(tmp_path, 1, refuse, lambda: 2**30):
        assert np.empty(2**28, np.uint8).size == 2**28
        with pytest.raises(MemoryError):
            np.empty(2**32, np.uint8)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            torch.empty(2**32, dtype=torch.uint8)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_what_another_has_reserved_is_not_given_away(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_reservation, "_swap", lambda: 0)
    assert holder.poll() is None
    with memory_reservation.reserve(tmp_path, 2**30, refuse, lambda: 8 * 2**30), pytest.raises(MemoryError):
        np.empty(2**32, np.uint8)
