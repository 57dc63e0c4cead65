"""A store, a Triton and a Redis as processes of their own, for tests."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.conftest import free_port
from triton_models.server.binary import find_triton

ROOT = Path(__file__).parents[2]
_PORTS = re.compile(r"(gRPC|HTTP) on \S+?:(\d+)\n")


@dataclass
class Store:
    """A running store. url, http_url: "host:port"."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str
    http_url: str

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)


@contextmanager
def store(log: Path, *options: str, **environment: str) -> Iterator[Store]:
    """`python -m inference_store OPTIONS` on free ports, its log in the file `log`."""
    command = [sys.executable, "-m", "inference_store", *options]
    command += ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, stderr=output)
    try:
        deadline = time.monotonic() + 30
        while len(ports := dict(_PORTS.findall(log.read_text()))) < 2 or "mode " not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield Store(process, log, f"127.0.0.1:{ports['gRPC']}", f"127.0.0.1:{ports['HTTP']}")
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()


@dataclass
class RunningTriton:
    """url, http_url: "host:port"."""

    process: subprocess.Popen[bytes]
    url: str
    http_url: str


@contextmanager
def triton(directory: Path, models: Path, names: tuple[str, ...]) -> Iterator[RunningTriton]:
    """The real Triton with gRPC and HTTP, and these models loaded."""
    binary = find_triton(directory / "backends")
    grpc_port, http_port, metrics_port = free_port(), free_port(), free_port()
    command = [
        str(binary.server),
        f"--model-repository={models}",
        f"--backend-directory={binary.backends}",
        "--model-control-mode=explicit",
        "--disable-auto-complete-config",
        *(f"--load-model={name}" for name in names),
        *("--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}"),
        *("--http-address=127.0.0.1", f"--http-port={http_port}", f"--metrics-port={metrics_port}"),
    ]
    log = directory / "triton.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=binary.environment, stdout=output, stderr=output)
    try:
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            grpc.channel_ready_future(channel).result(60)
        yield RunningTriton(process, f"127.0.0.1:{grpc_port}", f"127.0.0.1:{http_port}")
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        process.kill()
        process.wait()


def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m inference_store OPTIONS` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "inference_store", *options],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
