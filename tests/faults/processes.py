"""Finds, stops and kills the processes of a running server."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.conftest import ROOT, Server
from tests.support.waiting import wait_until
from triton_models.server.embedded import EmbeddedTriton


def family(server: Server, words: str = "") -> list[psutil.Process]:
    """Return the server's descendants whose command line contains `words`."""
    assert server.process is not None
    found = []
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(server.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if words in " ".join(process.cmdline()):
                    found.append(process)
    return found


def triton_of(server: Server) -> psutil.Process:
    """Wait for the embedded Triton and return it."""
    return wait_until(lambda: next((each for each in family(server) if each.name() == "tritonserver"), None))


def stub_of(server: Server, triton_name: str) -> psutil.Process:
    """Wait for the process of one model and return it."""

    def find() -> psutil.Process | None:
        return next(
            (each for each in family(server, "triton_python_backend_stub") if is_of(each, triton_name)), None
        )

    return wait_until(find)


def is_of(stub: psutil.Process, triton_name: str) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any(part == triton_name or part.startswith(f"{triton_name}_") for part in stub.cmdline())
    return False


def end_of(found: list[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that still run after 10 seconds."""
    return psutil.wait_procs(found, timeout=10)[1]


def leftovers(repository: Path) -> list[str]:
    """Return remaining shared memory and processes of the embedded Triton of a repository."""
    mark = EmbeddedTriton(repository, "off").mark
    # The directory of a Triton that was killed takes no memory, and stays until the next start.
    found = [path.name for path in Path("/dev/shm").glob(f"{mark}*") if not path.is_dir()]
    for process in psutil.process_iter(["cmdline"]):
        if mark in " ".join(process.info["cmdline"] or ()):
            found.append(str(process.info["cmdline"]))
    return found


@contextmanager
def stopped(process: psutil.Process) -> Iterator[None]:
    """Send SIGSTOP, and SIGCONT after the block if the process still exists."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)


class LoneTriton:
    """`python -m triton_models.server` on one port, restarted when it ends, as a supervisor would do.

    Triton 2.51 can crash when connections are reset during requests.
    """

    def __init__(self, repository: Path, port: int, metrics_port: int, log: Path) -> None:
        self.port = port
        self.starts = 0
        self._command = [sys.executable, "-m", "triton_models.server", "--repository", str(repository)]
        self._command += ["--grpc-port", str(port), "--metrics-port", str(metrics_port)]
        self._log = log
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep)
        self._process: subprocess.Popen[bytes] | None = None

    def _keep(self) -> None:
        while not self._end.is_set():
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)
            self.starts += 1
            self._process.wait()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()

    @contextmanager
    def running(self) -> Iterator["LoneTriton"]:
        self._thread.start()
        try:
            wait_until(lambda: self._log.exists() and "In a second" in self._log.read_text())
            yield self
        finally:
            self._end.set()
            assert self._process is not None
            self._process.terminate()
            self._thread.join()
