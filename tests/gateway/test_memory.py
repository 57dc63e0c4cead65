"""Memory by what processes are."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from gateway.memory import resident_memory
from tests.conftest import ROOT

FREED = """
from gateway.memory import give_back, resident_memory
blocks = [b"x" * 60_000 for _ in range(2000)]
# The last one, above all others, keeps the C library from giving back what lies below it.
del blocks[:-1]
before = resident_memory()["front_end"]
give_back()
print(before - resident_memory()["front_end"])
"""

HOLD = "import sys, time; held = bytearray(50_000_000); print(flush=True); time.sleep(60)"


def test_a_process_counts_as_what_it_is(tmp_path: Path) -> None:
    """A child of this process under the converter's name, and a child of that one."""
    package = tmp_path / "converters"
    package.mkdir()
    (package / "__main__.py").write_text(
        f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {HOLD!r}])\n"
    )
    before = resident_memory()
    assert before["front_end"] > 1e7
    command = [sys.executable, "-m", "converters"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            assert resident_memory()["converter"] - before.get("converter", 0) > 5e7
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_host_without_proc_knows_nothing(tmp_path: Path) -> None:
    assert resident_memory(tmp_path / "none") == {}


def test_what_was_freed_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", FREED], cwd=ROOT, capture_output=True, check=True)
    assert int(done.stdout) > 1e8
